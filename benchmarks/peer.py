"""The work of the other side: the same nets in PyTorch, as its users write them.

The network follows the layer data of `alexnet_jax.model.layers`, but has only PyTorch's own modules. It deviates twice,
both times in PyTorch's favor: response normalization runs over the channels of both towers, because in channels_last
PyTorch would have to copy them apart, and dropout is inverted dropout.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from alexnet_jax.config import Config
from alexnet_jax.model import layers
from alexnet_jax.model.ablations import build_net
from alexnet_jax.model.layers import LayerShape, Net, layer_shapes
from benchmarks.nets import net_config
from benchmarks.work import Piece, Work

LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
MODES = ("eager", "compiled", "max-autotune", "frozen")


class MapNormalization(nn.Module):
    """Response normalization over a neighborhood within each map (layer `cnorm2` of the released net)."""

    def __init__(self, layer: layers.MapNorm):
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize [B, C, H, W]; avg_pool2d counts the padding, so it divides by size^2 everywhere."""
        mean = F.avg_pool2d(x * x, self.layer.size, stride=1, padding=self.layer.size // 2)
        return x * (self.layer.k + self.layer.alpha * mean).pow(-self.layer.beta)


def network(net: Net, image_size: int, num_classes: int) -> nn.Sequential:
    """Build the net for [B, 3, S, S]; modules have the layers' names. ValueError for grouped fully connected layers."""
    model = nn.Sequential()
    for shape in layer_shapes(net, image_size, num_classes):
        for name, module in _modules(shape, net.towers):
            model.add_module(name, module)
    return model


def _modules(shape: LayerShape, towers: int) -> list[tuple[str, nn.Module]]:
    layer = shape.layer
    match layer:
        case layers.Convolution():
            before, after = layer.padding
            convolution = nn.Conv2d(
                shape.input_shape[-1],
                layer.features,
                layer.kernel,
                layer.stride,
                padding=before if before == after else 0,
                groups=towers if layer.sees == "own" else 1,
            )
            pad = [] if before == after else [(f"{layer.name}_pad", nn.ZeroPad2d((before, after, before, after)))]
            return [*pad, (layer.name, convolution)]
        case layers.Dense(sees="own"):
            raise ValueError(f"{layer.name}: PyTorch has no grouped fully connected layer")
        case layers.Dense() | layers.Classifier():
            flatten = [(f"{layer.name}_flatten", nn.Flatten())] if len(shape.input_shape) > 1 else []
            return [*flatten, (layer.name, nn.Linear(math.prod(shape.input_shape), shape.output_shape[0]))]
        case layers.Activation():
            return [(layer.name, nn.ReLU(inplace=True) if layer.function == "relu" else nn.Tanh())]
        case layers.ResponseNorm():
            alpha = layer.coefficient * layer.size  # PyTorch divides by the size
            return [(layer.name, nn.LocalResponseNorm(layer.size, alpha, layer.beta, layer.k))]
        case layers.MapNorm():
            return [(layer.name, MapNormalization(layer))]
        case layers.MaxPool():
            return [(layer.name, nn.MaxPool2d(layer.window, layer.stride, ceil_mode=layer.ceil))]
        case layers.Dropout():
            return [(layer.name, nn.Dropout(1 - layer.keep))]
    raise ValueError(f"{layer.name}: no counterpart in PyTorch")


def train_step(variant: str, batch: int, precision: str, width: float, device: str, layout: str, mode: str) -> Work:
    """Build the whole step; the same batch each time."""
    _, _, step = training(variant, batch, precision, width, device, layout, mode)
    return Work({"training": repeated(step, device)}, notes(device))


def training(
    variant: str, batch: int, precision: str, width: float, device: str, layout: str, mode: str
) -> tuple[nn.Module, torch.optim.Optimizer, Callable[[], None]]:
    """Build the net, its optimizer, and the step: forward, loss, backward and PyTorch's fused update."""
    config = net_config(variant, width)
    model, images, labels = _model_and_batch(config, batch, device, layout)
    kernels = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    biases = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    settings = config.optimizer
    optimizer = torch.optim.SGD(
        [
            {"params": kernels, "weight_decay": settings.weight_decay},
            {"params": biases, "lr": settings.bias_rate * settings.learning_rate},
        ],
        lr=settings.learning_rate,
        momentum=settings.momentum,
        fused=True,
    )

    def loss_of(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(images)
        return F.cross_entropy(logits.float(), labels)

    loss_in_mode = in_mode(loss_of, mode)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_in_mode(images, labels).backward()
        optimizer.step()

    return model, optimizer, step


def predict_step(variant: str, batch: int, precision: str, width: float, device: str, layout: str, mode: str) -> Work:
    """Build the log-probabilities in evaluation mode; `bfloat16` applies to the weights too."""
    model, images, _ = _model_and_batch(net_config(variant, width), batch, device, layout)
    if precision == "bfloat16":
        model, images = model.to(torch.bfloat16), images.to(torch.bfloat16)
    model.eval()
    log_probabilities = in_mode(lambda images: F.log_softmax(model(images).float(), dim=-1), mode)

    def step() -> None:
        with torch.inference_mode() if mode != "frozen" else torch.no_grad():
            log_probabilities(images)

    return Work({"inference": repeated(step, device)}, notes(device))


def matmul(size: int, precision: str, device: str) -> Work:
    """Build the product of two square matrices."""
    prepare(device)
    left, right = torch.randn(2, size, size, device=device, dtype=getattr(torch, precision))
    return Work({"matmul": repeated(lambda: torch.mm(left, right), device)}, notes(device))


def forward_and_backward(
    eager: Any, sizes: Iterable[tuple[int, int]], batch: int, precision: str, device: str, layout: str, mode: str
) -> Work:
    """Build two pieces per (side, channels): the function of [B, channels, side, side], alone and with its gradient."""
    prepare(device)

    def pieces_at(side: int, channels: int) -> dict[str, Piece]:
        function = in_mode(eager, mode)
        x = noise((batch, channels, side, side), precision, device, layout)
        with torch.no_grad():
            cotangent = torch.randn_like(function(x))
        watched = x.clone().requires_grad_()

        def forward() -> None:
            with torch.no_grad():
                function(x)

        name = f"{side} x {side} x {channels}"
        return {
            f"{name}, forward": repeated(forward, device),
            f"{name}, forward and backward": repeated(
                lambda: torch.autograd.grad(function(watched), watched, cotangent), device
            ),
        }

    return Work({name: piece for size in sizes for name, piece in pieces_at(*size).items()}, notes(device))


def noise(shape: tuple[int, ...], precision: str, device: str, layout: str) -> torch.Tensor:
    """Return normally distributed numbers."""
    values = torch.randn(shape, device=device).to(getattr(torch, precision))
    return values.to(memory_format=LAYOUTS[layout]) if values.ndim == 4 else values


def prepare(device: str) -> None:
    """Apply the usual settings on a GPU: cuDNN chooses by measuring, and float32 products may use TF32, as in JAX."""
    torch.manual_seed(0)
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True


def in_mode(function: Any, mode: str) -> Any:
    """Return `function` as it is, or compiled."""
    match mode:
        case "eager":
            return function
        case "compiled" | "frozen":
            return torch.compile(function)
        case "max-autotune":
            return torch.compile(function, mode="max-autotune")
    raise ValueError(f"unknown mode {mode!r}; choose one of {', '.join(MODES)}")


def repeated(function: Any, device: str) -> Piece:
    """Return the piece that calls the function the given number of times and waits for the device."""

    def run(calls: int) -> None:
        for _ in range(calls):
            function()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def notes(device: str) -> dict[str, Any]:
    """Return the device, and the settings that PyTorch's speed depends on."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }


def _model_and_batch(
    config: Config, batch: int, device: str, layout: str
) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    prepare(device)
    net = build_net(config.model)
    model = network(net, config.model.image_size, config.model.num_classes)
    images = 60 * torch.randn(batch, 3, config.model.image_size, config.model.image_size)
    labels = torch.randint(config.model.num_classes, (batch,), device=device)
    model.to(device)
    model.to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]
    return model, images.to(device, memory_format=LAYOUTS[layout]), labels
