"""Networks of ordinary torch layers and our neurons. Between neurons every tensor is [T, B, ...]."""

from rmp_deploy.training.models.convnet import ConvNet
from rmp_deploy.training.models.layers import DirectEncoding, MeanOverTime, Neuron, TimeDistributed, lif
from rmp_deploy.training.models.mlp import MLP
from rmp_deploy.training.models.resnet import BasicBlock, ResNet, resnet18, resnet19, resnet20, resnet34
from rmp_deploy.training.models.vgg import VGG, vgg16

__all__ = [
    "MLP",
    "VGG",
    "BasicBlock",
    "ConvNet",
    "DirectEncoding",
    "MeanOverTime",
    "Neuron",
    "ResNet",
    "TimeDistributed",
    "lif",
    "resnet18",
    "resnet19",
    "resnet20",
    "resnet34",
    "vgg16",
]
