"""What a config may say, and what is refused in one line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training.config import (
    PRESETS,
    WIDTHS,
    ModelConfig,
    RMPConfig,
    TrainConfig,
    from_dict,
    load_config,
    preset,
)


def test_config_from_toml(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        """
        epochs = 5
        lr = 1
        image_size = 32
        augmentation = ["crop", "flip"]
        weight_decay_on = "weights"
        amp = true
        [model]
        name = "vgg16"
        channels = [8, 8, 8, 8, 8]
        T = 2
        encoding = "poisson"
        reset = "soft"
        surrogate = "tanh"
        detach_reset = true
        learn_decay = true
        [rmp_loss]
        k = 0.2
        schedule = "constant"
        """
    )
    config = load_config(path)
    assert config == TrainConfig(
        epochs=5,
        lr=1.0,
        image_size=32,
        augmentation=("crop", "flip"),
        weight_decay_on="weights",
        amp=True,
        model=ModelConfig(
            name="vgg16",
            channels=(8,) * 5,
            T=2,
            encoding="poisson",
            reset="soft",
            surrogate="tanh",
            detach_reset=True,
            learn_decay=True,
        ),
        rmp_loss=RMPConfig(0.2, 1, "constant"),
    )
    assert from_dict(json.loads(json.dumps(config.as_dict()))) == config


def test_a_run_of_the_time_before_these_keys_still_loads():
    """config.json as the first version wrote it; its values mean what they meant."""
    old = {
        "data": "digits", "epochs": 30, "batch": 64, "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0005, "seed": 7,
        "threads": 1, "model": {"channels": [16, 32], "hidden": 64, "T": 4, "decay": 0.25, "v_threshold": 0.5},
        "rmp_loss": {"k": 0.1, "power": 1, "schedule": "triangle"},
    }  # fmt: skip
    config = from_dict(old)
    assert replace(config, model=replace(config.model, channels=())) == preset("digits-convnet")
    assert config.model.widths == preset("digits-convnet").model.widths


def test_widths_are_the_models_own_unless_given():
    assert {name: ModelConfig(name=name).widths for name in WIDTHS} == WIDTHS
    assert ModelConfig(name="resnet19", channels=(4, 8, 16)).widths == (4, 8, 16)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epoch = 5", "key 'epoch' is unknown. Did you mean 'epochs'?"),
        ("augmentations = []", "key 'augmentations' is unknown. Did you mean 'augmentation'?"),
        ("[rmp_loss]\nschedul = 'constant'", "key 'rmp_loss.schedul' is unknown. Did you mean 'schedule'?"),
        ("[model]\nsurogate = 'tanh'", "key 'model.surogate' is unknown. Did you mean 'surrogate'?"),
        ("epochs = 'ten'", "epochs = 'ten', allowed int"),
        ("epochs = true", "epochs = True, allowed int"),
        ("epochs = 0", "epochs = 0, allowed 1..2147483647"),
        ("threads = 1000000000", "threads = 1000000000, allowed 1..1024"),
        ("batch = 4000000000", "batch = 4000000000, allowed 2..2147483647"),
        ("[model]\nv_threshold = 1e300", "model.v_threshold = 1e+300, allowed what float32 holds"),
        ("image_size = -1", "image_size = -1, allowed 0"),
        ("image_size = 32.0", "image_size = 32.0, allowed int"),
        ("augmentation = 'crop'", "augmentation = 'crop', allowed list"),
        ("augmentation = [1]", "augmentation = 1, allowed str"),
        ("augmentation = ['rotate']", "augmentation = 'rotate', allowed crop | flip | autoaugment | cutout"),
        ("augmentation = ['crop', 'crop']", "augmentation = ('crop', 'crop'), allowed each once"),
        ("weight_decay_on = 'bias'", "weight_decay_on = 'bias', allowed all | weights"),
        ("weight_decay = -1", "weight_decay = -1.0, allowed >= 0"),
        ("lr = nan", "lr = nan, allowed > 0"),
        ("amp = 1", "amp = 1, allowed bool"),
        ("seed = -1", "seed = -1, allowed >= 0"),
        ("[model]\nname = 'vgg'", "model.name = 'vgg', allowed convnet | mlp | vgg16"),
        ("[model]\nT = 0", "model.T = 0, allowed 1..65535"),
        ("[model]\nencoding = 'rate'", "model.encoding = 'rate', allowed direct | poisson | ttfs | time_series"),
        ("[model]\nreset = 'none'", "model.reset = 'none', allowed hard | soft"),
        ("[model]\nsurrogate = 'atan'", "model.surrogate = 'atan', allowed rectangular | tanh | sigmoid | arctan"),
        ("[model]\nlearn_decay = true\ndecay = 1", "model.decay = 1.0, allowed between 0 and 1"),
        ("[model]\nchannels = [0]", "model.channels = (0,), allowed each 1..65536"),
        ("[model]\nchannels = [1.5]", "model.channels = 1.5, allowed int"),
        ("[model]\nname = 'vgg16'\nchannels = [8]", "model.channels = (8,), allowed 5 widths for vgg16"),
        ("[model]\nname = 'vgg16'\nhidden = 8", "model.hidden = 8, allowed left out"),
        ("[rmp_loss]\nschedule = 'up'", "rmp_loss.schedule = 'up', allowed triangle | ramp_hold | constant"),
        ("model = 3", "model = 3, allowed dict"),
        ('[rmp_loss]\nschedule = "two\\nlines"', r"schedule = 'two\nlines', allowed"),
        ('"two\\nlines" = 1', r"key 'two\nlines' is unknown"),
        ("lr = 1" + 400 * "0", "allowed float"),
        ("lr = 1" + 5000 * "0", "not TOML"),
        ("lr = " + 5000 * "[", "not TOML"),
        ("epochs = ", "not TOML"),
    ],
)
def test_a_wrong_config_is_refused_in_one_line(tmp_path, text, said):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(RmpDeployError) as e:
        load_config(path)
    assert said in str(e.value)
    assert "\n" not in str(e.value)


HUGE = "0x" + 5000 * "f"  # more digits than Python prints


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("seed = {huge}", "seed = a huge integer, allowed >= 0"),
        ("data = {huge}", "data = a huge integer, allowed str"),
        ("[model]\nchannels = [{huge}]", "model.channels = a huge integer, allowed each 1..65536"),
        ("[model]\nT = [{huge}]", "model.T = a huge integer, allowed int"),
        ("lr = '{long}'", "lr = 'kkkkkkkkkkkk...kkkkkkkkkkkkk', allowed float"),
        ("{long} = 1", "key 'kkkkkkkkkkkk...kkkkkkkkkkkkk' is unknown"),
        ("{long} = 1\n{long} = 1", "not TOML"),
    ],
)
def test_values_of_any_size_are_refused_in_a_line_that_can_be_read(tmp_path, what, said):
    path = tmp_path / "bad.toml"
    path.write_text(what.format(huge=HUGE, long=5000 * "k"))
    with pytest.raises(RmpDeployError) as e:
        load_config(path)
    assert said in str(e.value)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 100 + len(str(path)) + 200


def test_an_unknown_preset_is_refused():
    with pytest.raises(RmpDeployError, match="preset 'vgg': unknown, allowed digits-convnet"):
        preset("vgg")


def test_the_first_presets_have_not_changed():
    assert PRESETS["digits-convnet"] == TrainConfig()
    assert PRESETS["fashion-convnet"] == TrainConfig(
        data="", epochs=9, weight_decay=1e-4, model=ModelConfig(hidden=128)
    )
    old = TrainConfig()
    assert (old.epochs, old.batch, old.lr, old.momentum, old.weight_decay) == (30, 64, 0.1, 0.9, 5e-4)
    assert (old.seed, old.threads, old.weight_decay_on, old.augmentation, old.amp) == (7, 1, "all", (), False)
    assert old.rmp_loss == RMPConfig(0.1, 1, "triangle")
    assert old.model == ModelConfig("convnet", (), 64, 4, "direct", 0.25, 0.5, "hard", "rectangular", False, False)


def test_presets_of_the_paper_differ_in_data_network_and_little_else():
    paper = [c for name, c in PRESETS.items() if name not in ("digits-convnet", "fashion-convnet")]
    assert len(paper) == 10
    for config in paper:
        assert (config.lr, config.momentum, config.weight_decay, config.weight_decay_on) == (0.1, 0.9, 1e-4, "weights")
        assert (config.model.decay, config.model.v_threshold, config.model.reset) == (0.25, 0.5, "hard")
        assert config.rmp_loss == RMPConfig(0.1, 1, "triangle")
        assert config.data == ""
    of_cifar = {(c.epochs, c.batch, c.model.T, len(c.augmentation), c.amp) for c in paper[:6]}
    assert of_cifar == {(400, 128, 4, 4, False)}
    assert {(c.epochs, c.batch, c.model.T, c.image_size, c.model.encoding) for c in paper[6:8]} == {
        (400, 128, 10, 48, "time_series")
    }
    assert {(c.epochs, c.batch, c.model.T, c.image_size, c.amp) for c in paper[8:]} == {(320, 320, 4, 224, True)}
