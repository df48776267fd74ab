"""What a part of the model takes, known before it is loaded: memory in bytes, computation in FLOPs.

Formulas of shapes alone, run by this room's stages with LoRA and AdamW; what a layer keeps until
backward is a formula for layers as Llama has them, and counted for all others. In all of them a
batch is `batch` rows of `tokens` tokens, n = batch x tokens; h, f, q, k are the widths of the
hidden state, the feed-forward part, the queries and the keys; r is LoRA's rank; b is the bytes of
one element of the base.

Memory is what lives at the worst moment of a step, every saved activation among it, and the largest
passing tensors; it is not what an allocator wastes (fragmentation adds 0 to 40 % with glibc) nor
the interpreter. Where labels are few the head's share is small: say how many with `labels`, or
every position counts.
"""

from __future__ import annotations

from atlas.models.saved import counted_bytes, kinds, window
from atlas.models.settings import LoraSettings
from atlas.models.skeleton import targets
from atlas.models.spec import ModelSpec, Range

AS_LLAMA = ("llama", "mistral", "qwen2", "qwen3")
"""Families with Llama's layers: the formula of `saved_bytes` is theirs."""

FULL = 4
"""Bytes of an fp32 number."""

LORA_BYTES = 16
"""Bytes of one LoRA parameter in training: value, gradient and AdamW's two moments, each fp32."""


def layer_parameters(spec: ModelSpec) -> int:
    """Elements of one frozen layer: matrices, norms and biases."""
    return spec.layer_elements


def layer_matrices(spec: ModelSpec) -> int:
    """Elements of one layer's matrices, as Llama 2hq + 2hk + 3hf: what its FLOPs go by."""
    return sum(into * out for into, out in spec.projections.values())


def lora_parameters(spec: ModelSpec, lora: LoraSettings, layers: Range) -> int:
    """LoRA elements of some layers: r (in + out) for each target projection."""
    widths = spec.projections
    return len(layers) * sum(lora.rank * sum(widths[target]) for target in targets(spec, lora))


def whole_step_bytes(
    spec: ModelSpec, lora: LoraSettings, batch: int, tokens: int, *, labels: int | None = None
) -> int:
    """Memory of one training step of the unsplit model: the ends with all the layers."""
    return ends_bytes(spec, lora, spec.whole, batch, tokens, labels=labels)


def ends_bytes(
    spec: ModelSpec,
    lora: LoraSettings,
    layers: Range,
    batch: int,
    tokens: int,
    *,
    labels: int | None = None,
) -> int:
    """Memory of the client's part of a U: embedding, first layers, final norm, head, one session.

    The frozen weights, the session as `span_session_bytes` has it, and the head's passing tensors
    for each label: three fp32 rows of the vocabulary (log-probabilities and two gradients), and in
    bf16 the logits too.
    """
    rows = batch * tokens if labels is None else labels
    logits = 12 if spec.element_bytes == 4 else 12 + 2 * spec.element_bytes
    return (
        spec.ends_elements * spec.element_bytes
        + span_base_bytes(spec, layers)
        + span_session_bytes(spec, layers, lora, batch, tokens)
        + rows * spec.vocabulary * logits
    )


def span_base_bytes(spec: ModelSpec, layers: Range) -> int:
    """Memory of a host's frozen layers, shared by all the clients that it serves."""
    return len(layers) * layer_parameters(spec) * spec.element_bytes


def span_session_bytes(
    spec: ModelSpec,
    layers: Range,
    lora: LoraSettings,
    batch: int,
    tokens: int,
    *,
    optimizer: bool = True,
) -> int:
    """Memory of one client on a host: LoRA with its optimizer, and a step in flight.

    16 bytes per LoRA parameter, 8 without an optimizer (`recovery.keep: client`), and its value
    once more where `lora.fused` has it in the base's own dtype; what the backward pass needs,
    `saved_bytes` per token for each layer; four hidden states (received and returned, each way);
    and the passing tensors of the layer at work, 4h + 4f per token. What was merged into the base
    for the client comes on top.
    """
    rows = batch * tokens
    passing = (8 * spec.hidden + 4 * spec.intermediate) * spec.element_bytes
    saved = sum(
        saved_bytes(spec, lora, tokens, layer) for layer in range(layers.first, layers.last)
    )
    element = LORA_BYTES if optimizer else LORA_BYTES // 2
    if lora.fused and spec.element_bytes != FULL:
        element += spec.element_bytes
    return element * lora_parameters(spec, lora, layers) + rows * (saved + passing)


def saved_bytes(spec: ModelSpec, lora: LoraSettings, tokens: int, layer: int = 0) -> int:
    """Bytes that one layer keeps of one token until backward, in rows of `tokens`.

    For layers as Llama has them, in fp32: the inputs of both norms (2h), queries, keys, values and
    what attention gives (2q + 2k), three tensors of the feed-forward part (3f); with norms of
    queries and keys, those again (q + k); for LoRA r per target and each input of a target that is
    not kept already: h for q, k and v together, h for gate and up together, f for down. With
    dropout each target keeps its own masked input and the noise, twice its width, instead. In bf16
    the norms keep their input in fp32, and PEFT casts each target's input to fp32 for itself;
    `lora.fused` casts none.

    Any other layer is counted: see `atlas.models.saved`. So are Llama's where a sliding window is
    shorter than the rows, which costs a mask, and keys and values repeated for each query head.
    """
    if spec.family not in AS_LLAMA or (window(spec) or tokens) < tokens:
        return counted_bytes(spec, lora, tokens, kinds(spec)[layer])
    chosen = set(targets(spec, lora))
    own = spec.element_bytes
    cast = own if lora.fused else FULL
    norms = 2 * spec.hidden * FULL
    if spec.head_norms:
        norms += (spec.query_width + spec.key_value_width) * FULL
    plain = 2 * spec.query_width + 2 * spec.key_value_width + 3 * spec.intermediate
    if lora.dropout:
        inputs = 2 * sum(spec.projections[target][0] for target in chosen)
    elif cast == own:
        inputs = spec.hidden * bool(chosen & {"q_proj", "k_proj", "v_proj"})
        inputs += spec.hidden * bool(chosen & {"gate_proj", "up_proj"})
        inputs += spec.intermediate * ("down_proj" in chosen)
    else:
        inputs = sum(spec.projections[target][0] for target in chosen)
    return norms + plain * own + (inputs + lora.rank * len(chosen)) * cast


def history_bytes(boundary_bytes: int, micros: int, steps: int) -> int:
    """Bytes that a client keeps for one span so that another host can repeat `steps` steps.

    For each micro-batch the hidden state and the gradient that it sent, `boundary_bytes` each, as
    its codec made them.
    """
    return 2 * boundary_bytes * micros * steps


def state_bytes(spec: ModelSpec, lora: LoraSettings, layers: Range) -> int:
    """Bytes of a snapshot of some layers: parameters and AdamW's two moments, fp32 each."""
    return 12 * lora_parameters(spec, lora, layers)


def hidden_bytes(spec: ModelSpec, batch: int, tokens: int) -> int:
    """Bytes of one hidden state, or of its gradient, as it crosses from a stage to the next."""
    return batch * tokens * spec.hidden * spec.element_bytes


def adapter_bytes(spec: ModelSpec, lora: LoraSettings, layers: Range) -> int:
    """Bytes of the adapter of some layers as it is sent: fp32 values."""
    return 4 * lora_parameters(spec, lora, layers)


def forward_flops(
    spec: ModelSpec, lora: LoraSettings, layers: Range, batch: int, tokens: int
) -> float:
    """FLOPs of a forward pass.

    Per layer 2pn for p elements of matrices and LoRA, and 4 n tokens q for attention.
    """
    rows = batch * tokens
    matrices = len(layers) * layer_matrices(spec) + lora_parameters(spec, lora, layers)
    return 2.0 * rows * matrices + 4.0 * rows * tokens * spec.query_width * len(layers)


def backward_flops(
    spec: ModelSpec, lora: LoraSettings, layers: Range, batch: int, tokens: int
) -> float:
    """FLOPs of a backward pass.

    Per layer 2pn for p elements of frozen matrices, 4pn for LoRA's, 8 n tokens q for attention.
    """
    rows = batch * tokens
    matrices = len(layers) * layer_matrices(spec) + 2 * lora_parameters(spec, lora, layers)
    return 2.0 * rows * matrices + 8.0 * rows * tokens * spec.query_width * len(layers)


def head_flops(spec: ModelSpec, labels: int) -> float:
    """FLOPs of the head, forward and back, for that many labeled positions: 4 h vocabulary each."""
    return 4.0 * spec.hidden * spec.vocabulary * labels
