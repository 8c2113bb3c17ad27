"""The conventions by name."""

from __future__ import annotations

from dataclasses import replace

from rmp_deploy.analysis.conventions.switches import Convention, Rule, Sram, Switches

PJ = 1e-12
NJ = 1e-9
AC, MAC = 0.9 * PJ, 4.6 * PJ  # fp32 in 45 nm: Horowitz, ISSCC 2014, doi 10.1109/ISSCC.2014.6757323
UPDATES = ("neuron_active", "neuron_inactive")
CHIP = ("memory", "routing", "static power")

SYOPS = Convention(
    name="syops",
    title="syops-counter 0.0.5",
    source="syops 0.0.5, ops.py and README: E = 4.6 pJ * MAC + 0.9 pJ * AC",
    switches=Switches("nothing", "real", "rate", padding="in", bias="at rate"),
    terms={
        "ac": Rule(("ac", "bias_add", "pool_event", *UPDATES), AC),
        "mac": Rule(("mac", "bias_mac", "pool_element", "2 batch_norm_element"), MAC),
    },
    left_out=(*CHIP, "residual sums and everything else that is no module"),
    notes=(
        "its test for spikes looks at the values of one batch; here at what kind of values the layer reads",
        "it counts the bias of a Linear once per call; here a call is one step of one sample",
    ),
)
NEUROBENCH = Convention(
    name="neurobench",
    title="NeuroBench 2.3.0, SynapticOperations",
    source="neurobench 2.3.0, metrics/utils/layers: Effective_ACs, Effective_MACs and Dense, no energy",
    switches=Switches("nothing", zeros="skip"),
    terms={"ac": Rule(("ac",)), "mac": Rule(("mac",))},
    left_out=(*CHIP, "pools, residual sums and BatchNorm; it has no energies"),
    notes=("spikes of -1 are accumulates there; this network's graded spikes are multiply-accumulates",),
)
SPIKINGJELLY = Convention(
    name="spikingjelly",
    title="SpikingJelly 2.0.0, ACCounter and MACCounter",
    source="spikingjelly 2.0.0, activation_based/op_counter/ac.py, mac.py, simple_energy.py: fp32 4.6 and 0.9 pJ",
    switches=Switches("nothing", "real", padding="in", residual="elements"),
    terms={
        "ac": Rule(("ac", "pool_add", "residual_add", "batch_norm_element", "batch_norm_channel"), AC),
        "mac": Rule(("mac", "batch_norm_element"), MAC),
    },
    left_out=("biases of layers", "what the code of its neurons happens to add", *CHIP),
)
SPIKFORMER = Convention(
    name="spikformer",
    title="Spikformer family: E_MAC * FLOPs of the first layer * T + E_AC * SOPs",
    source="Zhou et al., ICLR 2023, and its successors: SOP = rate * T * FLOPs; 4.6 and 0.9 pJ",
    switches=Switches("nothing", "spikes", "rate", padding="in"),
    terms={"ac": Rule(("ac",), AC), "mac": Rule(("mac",), MAC)},
    left_out=(*CHIP, "BatchNorm, biases, residual sums and neurons"),
)
SPIKFORMER_ONCE = replace(
    SPIKFORMER,
    name="spikformer-once",
    title="Spikformer family, a direct-coded first layer computed once",
    switches=replace(SPIKFORMER.switches, steps="first once"),
)
SRAM = Sram(((0, 0.0), (8 * 1024, 10 * PJ), (32 * 1024, 20 * PJ), (1024 * 1024, 100 * PJ)))
LEMAIRE = Convention(
    name="lemaire",
    title="Lemaire 2022: operations, addressing and memory of a digital accelerator",
    source="Lemaire et al. 2022, arXiv 2210.13107, as transcribed by two implementations; int32 add 0.1, mul 3.1 pJ",
    switches=Switches("nothing", "real", "kernel", padding="in"),
    terms={
        "ac": Rule(("ac", "bias_add", "reset"), 0.1 * PJ),
        "mac": Rule(("mac", "neuron_multiply"), 3.2 * PJ),
        "address_ac": Rule(("address_add",), 0.1 * PJ),
        "address_mac": Rule(("address_multiply",), 3.2 * PJ),
        "memory_in_out": Rule(("read_spikes", "write_spikes"), SRAM),
        "memory_parameters": Rule(("read_parameters",), SRAM),
        "memory_potentials": Rule(("read_potentials", "write_potentials"), SRAM),
    },
    left_out=(
        "routing",
        "static power",
        "inputs, parameters and potentials of the layers that read real values; their spikes are written",
        "pools, residual sums",
    ),
    notes=(
        "the extra factor N_in of its Eq. (2) is a misprint to both implementations, and to us",
        "SpikingJelly 2.0.0's analytical_energy.py differs: potentials once more per neuron and step, not per sample",
        "words of 4 bytes, a queue of 1000 messages; the figure of a 64-bit access is charged for each word",
    ),
)
KERASSPIKING = Convention(
    name="kerasspiking",
    title="KerasSpiking 0.3.0 ModelEnergy, device loihi",
    source="keras-spiking 0.3.0, model_energy.py: 27.1 pJ per synaptic event, 81 pJ per neuron and step",
    switches=Switches("nothing", "spikes", "rate", "mean", padding="in"),
    terms={"synapse": Rule(("ac", "mac"), 27.1 * PJ), "neuron": Rule(UPDATES, 81 * PJ)},
    left_out=(*CHIP, "pools, residual sums and biases"),
    notes=(
        "the input's mean is taken for a rate in Hz: images of 0..1 count as almost silent",
        "27.1 pJ are Davies 2018's 23.6 and another 3.5 that its code does not explain",
    ),
)
_DENSE = Switches("nothing", "real", "all", padding="in", steps="one")
KERASSPIKING_CPU = replace(
    KERASSPIKING,
    name="kerasspiking-cpu",
    title="KerasSpiking 0.3.0 ModelEnergy, device cpu: the network as an ANN",
    source="keras-spiking 0.3.0, model_energy.py: 8.6 nJ (i7-4960X), Degnan et al. 2015, TVLSI 24(1)",
    switches=_DENSE,
    terms={"synapse": Rule(("ac", "mac"), 8.6 * NJ), "neuron": Rule(UPDATES, 8.6 * NJ)},
    notes=(),
)
KERASSPIKING_GPU = replace(
    KERASSPIKING_CPU,
    name="kerasspiking-gpu",
    title="KerasSpiking 0.3.0 ModelEnergy, device gpu: the network as an ANN",
    source="keras-spiking 0.3.0, model_energy.py: 0.3 nJ (GTX Titan Black), Degnan et al. 2015, TVLSI 24(1)",
    terms={"synapse": Rule(("ac", "mac"), 0.3 * NJ), "neuron": Rule(UPDATES, 0.3 * NJ)},
)
SANAFE = Convention(
    name="sanafe",
    title="SANA-FE 2.2.9, arch/loihi.yaml",
    source="SANA-FE 2.2.9, arch/loihi.yaml: calibrated by Boyle et al., TCAD 44(8):3165, 2025",
    switches=Switches(zeros="skip"),
    terms={
        "synapse_conv": Rule(("ac_convolution",), 24.0 * PJ),
        "synapse_dense": Rule(("ac_dense",), 35.5 * PJ),
        "mac": Rule(("mac",)),
        "soma_access": Rule(UPDATES, 51.2 * PJ),
        "soma_update": Rule(("neuron_active",), 21.6 * PJ),
        "spike_out": Rule(("spike",), 69.3 * PJ),
    },
    left_out=(
        "messages (111 pJ) and hops, which need the placement",
        "static power",
        "graded and real inputs: no price",
    ),
    notes=(
        "edges of weight 0 are not mapped; a spike that joins a current takes an edge of its own",
        "an updated neuron is one that a synaptic event reached or that spiked, as in our counts",
    ),
)
YAN2024 = Convention(
    name="yan2024",
    title="Yan 2024, computation alone, 22 nm",
    source="Yan, Bai, Tang, Wong, arXiv 2409.08290v4: E_ACC = E_CMP = E_SUB = 0.05448 pJ",
    switches=Switches("nothing", "real", "rate"),
    terms={
        "ac": Rule(("ac",), 0.05448 * PJ),
        "mac": Rule(("mac",)),
        "compare": Rule(("neuron_compare",), 0.05448 * PJ),
        "subtract": Rule(("reset",), 0.05448 * PJ),
    },
    left_out=("movement of spikes and weights, and DRAM, which its model has and which need its mapping", "E_MAC"),
    notes=("one comparison per neuron and step and one subtraction per spike are our reading",),
)

CONVENTIONS: dict[str, Convention] = {
    convention.name: convention
    for convention in (
        SYOPS,
        NEUROBENCH,
        SPIKINGJELLY,
        SPIKFORMER,
        SPIKFORMER_ONCE,
        LEMAIRE,
        KERASSPIKING,
        KERASSPIKING_CPU,
        KERASSPIKING_GPU,
        SANAFE,
        YAN2024,
    )
}
