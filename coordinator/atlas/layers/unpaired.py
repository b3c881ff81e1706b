"""Classes of ``torch.nn`` and ``paddle.nn`` that have no row, each with the reason."""

from __future__ import annotations

from collections.abc import Mapping

_CONTAINER = "holds other modules and computes nothing"
_LAZY = "takes its sizes from the first batch; after that it is the class without Lazy"
_BASE = "a base class"

TORCH: Mapping[str, str] = {
    "Container": _CONTAINER,
    "CrossMapLRN2d": "the old form of LocalResponseNorm, which is paired",
    "DataParallel": "runs a module on several devices and computes nothing of its own",
    "Dropout1d": "paddle drops whole channels of 4 and 5 dimensions alone: Dropout2D and Dropout3D",
    "EmbeddingBag": "paddle has none: Embedding and a mean, sum or max over the bag",
    "FractionalMaxPool2d": "random regions: torch draws a sample for each channel, paddle takes one number for all",
    "FractionalMaxPool3d": "random regions: torch draws a sample for each channel, paddle takes one number for all",
    "LPPool3d": "paddle has none for 5 dimensions",
    **{
        f"Lazy{kind}{dimensions}d": _LAZY
        for kind in ("BatchNorm", "Conv", "ConvTranspose", "InstanceNorm")
        for dimensions in (1, 2, 3)
    },
    "LazyLinear": _LAZY,
    "LinearCrossEntropyLoss": "paddle has none: Linear and CrossEntropyLoss, which are paired",
    "Module": _BASE,
    "ModuleDict": _CONTAINER,
    "ModuleList": _CONTAINER,
    "NLLLoss2d": "another name of NLLLoss, which is paired",
    "ParameterDict": _CONTAINER,
    "ParameterList": _CONTAINER,
    "RMSNorm": "paddle.nn has no class and its function no CPU kernel: x / sqrt(mean(x^2) + eps) * weight, written out; "
    "torch's eps None is the dtype's machine epsilon",
    "RNNBase": _BASE,
    "RNNCellBase": _BASE,
    "Sequential": _CONTAINER,
    "Softmin": "paddle has none: Softmax of -x",
}
PADDLE: Mapping[str, str] = {
    "BiRNN": "runs two cells over a sequence: RNN, LSTM or GRU with bidirectional=True in torch",
    "FractionalMaxPool2D": "random regions: torch draws a sample for each channel, paddle takes one number for all",
    "FractionalMaxPool3D": "random regions: torch draws a sample for each channel, paddle takes one number for all",
    "HSigmoidLoss": "torch has none",
    "Layer": _BASE,
    "LayerDict": _CONTAINER,
    "LayerList": _CONTAINER,
    "Maxout": "torch has none: a view and a max",
    "Module": _BASE,
    "ModuleDict": _CONTAINER,
    "ModuleList": _CONTAINER,
    "ParameterDict": _CONTAINER,
    "ParameterList": _CONTAINER,
    "RNN": "runs a cell over a sequence; torch's RNN is paddle's SimpleRNN",
    "RNNCellBase": _BASE,
    "RNNTLoss": "torch.nn has none (torchaudio has)",
    "Sequential": _CONTAINER,
    "SpectralNorm": "torch has it as torch.nn.utils.spectral_norm, which wraps a module",
}
