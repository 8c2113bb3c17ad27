"""What a placed network takes of a chip, for the terminal: the answer first, a row per layer, then what was assumed."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rmp_deploy.analysis.utilization import LayerUse, Utilization, excess_errors
from rmp_deploy.report.text import count, plural, printable

COLUMNS: dict[str, str] = {
    "neurons_per_core": "neurons",
    "input_axons_per_core": "axons in",
    "output_axons_per_core": "axons out",
    "synapse_memory_per_core": "bytes",
    "synapses_per_core": "synapses",
}


def headline(found: Utilization, name: str) -> str:
    """``digits on loihi1: fits, 4 of 128 cores``"""
    name = printable(name)
    if not found.fits:
        layers = plural(len({e.layer for e in found.excesses}), "layer")
        return f"{name} on {found.profile}: does not fit: {layers} of {len(found.layers)} cannot be cut small enough"
    fits = f"{name} on {found.profile}: fits{' as far as is known' * bool(found.unknown)}"
    if found.chips is None:
        return f"{fits}, {plural(found.cores, 'core')}"
    if found.chips == 1:
        return f"{fits}, {found.cores} of {found.cores_per_chip} cores"
    return f"{fits}, on {found.chips:,} chips: {plural(found.cores, 'core')}, {found.cores_per_chip} on each chip"


def table(found: Utilization) -> Table:
    """A row per layer: its neurons and cores, and what the fullest core holds with its share of each known limit."""
    known = [limit for limit in COLUMNS if limit not in found.unknown]
    if "synapse_memory_per_core" in known and "synapses_per_core" in known:
        known.remove("synapses_per_core")  # the memory holds the same synapses, and is the narrower limit
    made = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    made.add_column("layer", overflow="fold")
    for column in ("size", "cores", *(COLUMNS[limit] for limit in known)):
        made.add_column(column, justify="right")
    for row in found.layers:
        cells = (f"{count(row.use[n].largest)} {_share(row, n)}" for n in known)
        made.add_row(*(Text(cell) for cell in (_title(row), count(row.neurons), count(row.cores), *cells)))
    made.add_row(*(Text(cell) for cell in ("all", count(found.neurons), count(found.cores))))
    return made


def render(found: Utilization, name: str, console: Console) -> None:
    """Print the headline, what does not fit, the table, and what was assumed or not checked."""
    console.print(Text(headline(found, name), "bold"), soft_wrap=True)
    for _, error in excess_errors(found):
        console.print(Text(f"error: {error}"), soft_wrap=True)
    console.print("\nFullest core of each layer, and its share of the limit")
    console.print(table(found))
    for note in _notes(found):
        console.print(Text(note), soft_wrap=True)


def _notes(found: Utilization) -> Iterator[str]:
    if found.host:
        yield f"on the host: {', '.join(found.host)}"
    if found.assumed_bits is not None:
        yield f"assumed: real-valued weights count as {found.assumed_bits} bits each; quantize the network to be sure"
    if found.relay_neurons:
        yield f"relays: {found.relay_neurons:,} of the neurons wait for longer branches (balance_latency)"
    stored, once = (f"{count(n)}B" for n in (found.memory_bytes, found.kernel_bytes))
    yield f"weights: {stored}, each of {count(found.n_synapses)} synapses on its own; kernels once per core: {once}"
    for limit, why in found.unknown.items():
        largest = max((row.use[limit].largest for row in found.layers if limit in row.use), default=0)
        needed = f"; the fullest core needs {largest:,}" if largest else ""
        yield f"not checked: {limit} ({why}){needed}"


def _title(row: LayerUse) -> str:
    return row.layer if row.kind == "neurons" else f"{row.layer} ({row.kind})"


def _share(row: LayerUse, limit: str) -> str:
    share = row.use[limit].share
    return "" if share is None else f"{100 * share:.0f} %"
