"""Apply a convention to a run, and tell its difference to our exact counts apart, rule by rule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from fractions import Fraction

import numpy as np

from rmp_deploy.analysis.conventions.layers import (
    SIZES,
    Layer,
    Number,
    Run,
    count_batch_norms,
    count_rows,
)
from rmp_deploy.analysis.conventions.switches import EXTRAS, REASONS, Convention, Rule, Sram, Switches
from rmp_deploy.analysis.counts import Counts
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.hw_profiles import TERMS
from rmp_deploy.ir.graph import SpikingGraph

LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Difference:
    """What one rule of a convention adds to, or takes from, our exact count of a term [operations per sample]."""

    term: str
    reason: str
    count: Fraction


@dataclass(frozen=True)
class ConventionTerm:
    """One term: ``count = ours + sum of its differences``, exact [operations per sample].

    Attributes:
        count: as the convention counts it; None where the run does not tell, and `why`.
        ours: our exact counts of the same operations; 0 for what we do not count.
        price: [J] of one; None where there is none, or where it depends on the size of a layer's memory.
        joule: [J] per sample; None if unknown.
        differences: why `count` is not `ours`.
    """

    count: Fraction | None
    ours: Fraction
    price: float | None
    joule: float | None
    differences: tuple[Difference, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class ConventionLedger:
    """What one convention says of one run.

    `joule_per_sample` [J]: the sum of the terms; None if the convention has no energies, or an operation that happened
    has no price or no known count. `left_out`: what our ledger counts, or a chip does, and the convention does not.
    """

    name: str
    title: str
    source: str
    terms: dict[str, ConventionTerm]
    joule_per_sample: float | None
    left_out: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def differences(self) -> tuple[Difference, ...]:
        """Of all terms."""
        return tuple(difference for term in self.terms.values() for difference in term.differences)


def apply(
    convention: Convention,
    graph: SpikingGraph,
    counts: Counts,
    *,
    designed: SpikingGraph | None = None,
    mean_input: float | None = None,
) -> ConventionLedger:
    """Count and price the run of `counts` as `convention` does.

    Differences are told apart by setting the convention's switches one after the other, in the order of `Switches`:
    each owes what it changes given those before it, so that ``ours + sum(differences) = count`` holds exactly.

    Args:
        convention: one of `CONVENTIONS`, or another table.
        graph: the network as deployed, that was counted.
        counts: what it did.
        designed: the network before BatchNorm was folded: conventions that count BatchNorm count it there. Without it
            they count none.
        mean_input: mean of ``|x|`` over all samples and steps, which KerasSpiking takes for a rate in Hz.

    Raises:
        RmpDeployError: `counts` are of another graph, or `mean_input` is not the mean of magnitudes.
    """
    if mean_input is not None and not 0 <= mean_input <= LARGEST:
        raise RmpDeployError(
            f"convention '{convention.name}': mean_input = {mean_input!s:.20}, allowed 0..{LARGEST:.2g}. "
            "Give the mean of the input's magnitude."
        )
    if any(row.layer not in graph.by_name for row in counts.layers) or counts.T != graph.T:
        theirs, ours = [row.layer for row in counts.layers], [op.name for op in graph.ops]
        raise RmpDeployError(
            f"convention '{convention.name}': counts of (T, layers) = {(counts.T, theirs)}, allowed of graph "
            f"'{graph.name}', {(graph.T, ours)}. Count this graph."
        )
    run = Run(graph, counts, designed, mean_input)
    terms = {name: _term(name, rule, convention, run) for name, rule in convention.terms.items()}
    # a price that nobody needs is not missed
    joules = [term.joule for term in terms.values() if term.count != 0 or term.joule is not None]
    known = [joule for joule in joules if joule is not None]
    return ConventionLedger(
        name=convention.name,
        title=convention.title,
        source=convention.source,
        terms=terms,
        joule_per_sample=math.fsum(known) if joules and len(known) == len(joules) else None,
        left_out=(*convention.left_out, *_left_out(convention, run)),
        notes=convention.notes,
    )


def _term(name: str, rule: Rule, convention: Convention, run: Run) -> ConventionTerm:
    samples = run.counts.samples
    ours = _sum(_quantities(rule, run, Switches()), exact=True)
    assert isinstance(ours, Fraction)
    values = _quantities(rule, run, convention.switches)
    count = _sum(values)
    price = rule.price if isinstance(rule.price, float) else None
    if isinstance(count, str):
        return ConventionTerm(None, ours / samples, price, None, why=count)
    joule = None if rule.price is None else _joule(rule.price, values) / samples
    differences = _differences(name, rule, convention, run)
    if isinstance(differences, str):
        return ConventionTerm(None, ours / samples, price, None, why=differences)
    return ConventionTerm(count / samples, ours / samples, price, joule, differences)


def _differences(name: str, rule: Rule, convention: Convention, run: Run) -> tuple[Difference, ...] | str:
    """One for each switch that changes the term, then one for each quantity that our counts do not have."""
    found: list[Difference] = []
    before, state = _sum(_quantities(rule, run, Switches()), exact=True), Switches()
    for switch in fields(Switches):
        value = getattr(convention.switches, switch.name)
        if value == switch.default:
            continue
        state = replace(state, **{switch.name: value})
        after = _sum(_quantities(rule, run, state), exact=True)
        if isinstance(before, str) or isinstance(after, str):
            return before if isinstance(before, str) else str(after)
        if after != before:
            found.append(Difference(name, REASONS[switch.name, value], (after - before) / run.counts.samples))
        before = after
    for quantity, of_layers in _quantities(rule, run, convention.switches).items():
        extra = _sum({quantity: of_layers})
        if quantity in EXTRAS and quantity != "bias_mac" and isinstance(extra, Fraction) and extra:
            found.append(Difference(name, EXTRAS[quantity], extra / run.counts.samples))
    return tuple(found)


Quantities = dict[str, list[tuple[Layer | None, Number]]]


def _quantities(rule: Rule, run: Run, switches: Switches) -> Quantities:
    """Of each layer, times its factor."""
    factors = {quantity.split()[-1]: int(quantity.split()[0]) if " " in quantity else 1 for quantity in rule.quantities}
    norms = {name: n for name, n in count_batch_norms(run).items() if name in factors}
    rows = count_rows(run, switches, [name for name in factors if name not in norms])
    found: Quantities = {name: [(None, n)] for name, n in norms.items()}
    found |= {name: list(of_layers) for name, of_layers in rows.items()}
    return {
        name: [(layer, n if isinstance(n, str) else n * factors[name]) for layer, n in of_layers]
        for name, of_layers in found.items()
    }


def _sum(quantities: Quantities, exact: bool = False) -> Number:
    """Of all layers; with `exact`, of what our counts have. A reason where one number is not known."""
    total = Fraction(0)
    for name, of_layers in quantities.items():
        if exact and name in EXTRAS and name != "bias_mac":
            continue
        for _, n in of_layers:
            if isinstance(n, str):
                return n
            total += n
    return total


def _joule(price: float | Sram, quantities: Quantities) -> float:
    """[J] over all samples."""

    def joules() -> Iterable[float]:
        for name, of_layers in quantities.items():
            for layer, n in of_layers:
                if n and layer is not None and isinstance(price, Sram):
                    yield float(n) * price.joule(SIZES[name](layer))
                elif not isinstance(price, Sram):
                    yield float(n) * price

    return math.fsum(joules())


def _left_out(convention: Convention, run: Run) -> list[str]:
    """Our terms that happened and that no rule holds."""
    used = {quantity.split()[-1] for rule in convention.terms.values() for quantity in rule.quantities}
    used |= {"ac"} if used >= {"ac_convolution", "ac_dense"} else set()
    return [
        f"{TERMS[term].title} ({term}): {float(Fraction(n, run.counts.samples)):,g} per sample"
        for term, n in run.counts.totals.items()
        if n and term not in used
    ]
