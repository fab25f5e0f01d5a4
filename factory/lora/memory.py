"""How much memory training and answering need, part by part. Computes; measures nothing and knows no machine.

The parts are counted from what `engine` and `step` keep for the backward pass. Sizes are in bytes, of the device that
computes.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from factory.lora.attention import SHORT
from factory.lora.batches import EncodedRow, num_labels
from factory.lora.flops import shared_tokens
from factory.lora.losses import LOSS_CHUNK
from factory.lora.recall import BATCH_SIZE, MAX_ANSWER_TOKENS
from factory.lora.retention import OVERSAMPLED, TOKENS_AT_ONCE
from factory.lora.shape import Shape
from factory.lora.step import PROMPT_TOKENS
from factory.lora.whitening import DIRECTIONS

LIBRARIES_BYTES = 700 << 20  # torch, transformers and peft once imported, measured on Linux x86-64
CUDA_BYTES = 1_400_000_000  # context and workspaces, as Unsloth counts them
LONG_RUN_BYTES = 5 << 29  # what the quickstart's training on a CPU, at 5.1 GiB, peaked above its largest step
SLACK = 1.2  # steps of small models took up to a fifth more than what is counted here
# A number of a frozen layer: 4 bits, a quantized scale for 64 of them and a scale for 256 of these; or 8 bits.
QUANTIZED_BYTES = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}
FLOAT = 4
DRAWN = 4 / 2  # numbers a logit while tokens are drawn, where half of what is looked at is answers
SKETCHED = 1 + (DIRECTIONS + OVERSAMPLED) / DIRECTIONS  # numbers while they are found, for one that is kept


@dataclass(frozen=True)
class Setup:
    """What of a base, its adapter and a machine decides what a step keeps; `factory.lora.setup` reads it off modules.

    `trained` numbers lie in the layers from `first_layer` on. Of one token and over all modules with an adapter,
    `inputs` are what they read, `ranks` what A makes of it, `results` what DoRA keeps of what base and adapter put
    out; `directions` are the numbers of those that steps are whitened along, `retained` of those that general answers
    are kept by, `rebuilt` the weights without a module of their own to which every step adds B A. `dtype_bytes` is the
    size of a number in the computing dtype, `float16` tells whether it is that one, `fused` which engine runs,
    `checkpointing` whether activations are computed twice, `offloaded` whether what a layer begins with then waits in
    main memory, `head_norms` whether queries and keys are normalised. The layers' weights are spread over `processes`,
    whose shares wait there too if `shares_offloaded`; `init` is the adapter's.
    """

    shape: Shape
    first_layer: int
    trained: int
    inputs: int
    ranks: int
    dtype_bytes: int
    fused: bool
    float16: bool = False
    results: int = 0
    directions: int = 0
    retained: int = 0
    rebuilt: int = 0
    dropout: bool = False
    checkpointing: bool = False
    head_norms: bool = False
    offloaded: bool = False
    quantization: Literal["none", "nf4", "int8"] = "none"
    init: Literal["default", "pissa", "loftq", "eva"] = "default"
    processes: int = 1
    shares_offloaded: bool = False
    cuda: bool = False

    @property
    def layers(self) -> int:
        """How many layers keep something for the backward pass."""
        return self.shape.layers - self.first_layer


@dataclass(frozen=True)
class Below:
    """Rows of which some stand below passages, which the fast engine computes once for those of a batch, in tokens.

    `shared` are the most that rows below the same passages begin with, `own` the most that such a row has beside them,
    `apart` those of the longest row below none.
    """

    shared: int
    own: int
    apart: int


@dataclass(frozen=True)
class Load:
    """The rows of a dataset.

    `tokens` are those of the longest, `labels` the most that one has, `kept_tokens` those of all rows whose output of
    the frozen layers stays in memory. With pairs, two rows are computed `together` for one of a batch.
    """

    tokens: int
    labels: int
    kept_tokens: int = 0
    together: int = 1
    below: Below | None = None


@dataclass(frozen=True)
class Parts:
    """Bytes by what they hold.

    `cache` is keys and values of answers, or outputs of frozen layers; `reserve` what the estimate may miss; `long_run`
    what many steps on a CPU add to one, in a heap in pieces and caches for batches of every size.
    """

    weights: float = 0.0
    adapter: float = 0.0
    optimizer: float = 0.0
    gradients: float = 0.0
    activations: float = 0.0
    logits: float = 0.0
    cache: float = 0.0
    libraries: float = 0.0
    reserve: float = 0.0
    long_run: float = 0.0

    @property
    def total(self) -> float:
        """All parts together."""
        return sum(asdict(self).values())


def load_of(rows: Sequence[EncodedRow], others: Sequence[EncodedRow] = ()) -> Load:
    """Return the load of rows, or of pairs with the others, of which nothing is kept."""
    lengths = [len(row.ids) for row in rows]
    longest = max([*lengths, *(len(row.ids) for row in others)])
    labels = max(map(num_labels, [*rows, *others]))
    if others:
        return Load(longest, labels, together=2)
    return Load(longest, labels, kept_tokens=sum(lengths), below=_below(rows))


def _below(rows: Sequence[EncodedRow]) -> Below | None:
    contexts: dict[str, list[EncodedRow]] = defaultdict(list)
    for row in rows:
        contexts[row.context].append(row)
    apart = max((len(row.ids) for row in contexts.pop("", [])), default=0)
    if not contexts:
        return None
    sizes = [(shared_tokens(same), max(len(row.ids) for row in same)) for same in contexts.values()]
    return Below(
        max(shared for shared, _ in sizes), max(longest - shared for shared, longest in sizes), apart
    )


def largest_rows(setup: Setup, load: Load, rows: int) -> tuple[int, int]:
    """Return the tokens of each of so many rows that need the most together, and how many of them are shared."""
    below = load.below
    if below is None or not setup.fused:
        return load.tokens, 0
    if rows * _activations(setup, below.apart) > _sharing(setup, below, rows):
        return below.apart, 0
    return below.shared + below.own, below.shared


def opening(setup: Setup) -> Parts:
    """Return what putting an adapter on the base holds.

    What general answers are kept by is found in float32 and by a few more directions than it is kept by; PiSSA takes
    weights apart in float32.
    """
    state = _state(setup, Load(0, 0))
    if setup.retained:
        looked = TOKENS_AT_ONCE / SHORT * _activations(replace(setup, checkpointing=False), SHORT)
        logits = DRAWN * FLOAT * TOKENS_AT_ONCE * setup.shape.vocabulary
        state = replace(state, activations=looked + FLOAT * SKETCHED * setup.retained, logits=logits)
    if setup.init == "pissa":
        state = replace(state, weights=FLOAT * setup.shape.parameters)
    return _with_reserve(state)


def train_step(setup: Setup, load: Load, rows: int) -> Parts:
    """Return what one step holds at its peak, the forward pass of that many longest rows, or pairs, being done."""
    rows *= load.together
    labels = rows * load.labels
    logits = 2 * FLOAT * min(labels, LOSS_CHUNK)
    rebuilt = setup.rebuilt / (setup.layers if setup.checkpointing else 1)
    return _with_reserve(
        replace(
            _state(setup, load),
            gradients=FLOAT * setup.trained,
            activations=_together(setup, load, rows) + setup.dtype_bytes * rebuilt,
            logits=logits * setup.shape.vocabulary,
        ),
        long=not setup.cuda,
    )


def recall_step(setup: Setup, load: Load) -> Parts:
    """Return what measuring recall holds beside what is trained: greedy answers to questions as long as the rows'."""
    answering = _answering(setup, max(1, load.tokens - load.labels), MAX_ANSWER_TOKENS)
    state = _state(setup, load)
    return _with_reserve(
        replace(answering, weights=state.weights, adapter=state.adapter, optimizer=state.optimizer,
                cache=state.cache + answering.cache),
        long=not setup.cuda,
    )  # fmt: skip


def answer_step(setup: Setup, prompt_tokens: int, new_tokens: int) -> Parts:
    """Return what one batch of the evaluation holds: prompts of that length, weights in 16 bits on a GPU, else 32."""
    plain = replace(setup, quantization="none", dtype_bytes=setup.dtype_bytes if setup.cuda else FLOAT)
    answering = _answering(plain, prompt_tokens, new_tokens)
    return _with_reserve(replace(answering, weights=_weights(plain), adapter=FLOAT * plain.trained))


def prompts_at_once(prompt_tokens: int) -> int:
    """Return how many prompts of a length are read at once."""
    return max(1, min(BATCH_SIZE, PROMPT_TOKENS // prompt_tokens))


def _with_reserve(parts: Parts, *, long: bool = False) -> Parts:
    return replace(parts, reserve=(SLACK - 1) * parts.total, long_run=LONG_RUN_BYTES if long else 0.0)


def _weights(setup: Setup) -> float:
    """Return the bytes of the frozen weights.

    The largest of quantized ones is unpacked to be computed with; of spread ones, two layers are brought together.
    """
    shape, size = setup.shape, setup.dtype_bytes
    if setup.quantization != "none":
        largest = shape.width * max(shape.inner, shape.queries)
        packed = QUANTIZED_BYTES[setup.quantization] * shape.layer_parameters
        return packed + size * (shape.outer_parameters + largest)
    if setup.processes == 1:
        return size * shape.parameters
    share = (0 if setup.shares_offloaded else 1 / setup.processes) + 2 / shape.layers
    return size * (shape.outer_parameters + share * shape.layer_parameters)


def _state(setup: Setup, load: Load) -> Parts:
    """Return what stays in memory from step to step: moments and directions in float32, a copy in low precision.

    What general answers are kept by has low precision, too, where that is not float16. Plain layers in float32 compute
    with the adapter itself. A beginning that stands for a part of the base is kept.
    """
    copied = setup.dtype_bytes if setup.fused or setup.dtype_bytes < FLOAT else 0
    kept_by = FLOAT if setup.float16 else setup.dtype_bytes
    begun = FLOAT if setup.init in {"pissa", "loftq"} and not setup.cuda else 0
    kept = load.kept_tokens * setup.shape.width * setup.dtype_bytes if setup.first_layer else 0
    return Parts(
        weights=_weights(setup),
        adapter=(FLOAT + copied + begun) * setup.trained,
        optimizer=FLOAT * (2 * setup.trained + setup.directions) + kept_by * setup.retained,
        cache=kept,
        libraries=CUDA_BYTES if setup.cuda else LIBRARIES_BYTES,
    )


def _together(setup: Setup, load: Load, rows: int) -> float:
    """Return the bytes for that many rows: the longest, or what they are where they share what stands above them."""
    below = load.below
    if below is None or not setup.fused:
        return rows * _activations(setup, load.tokens)
    return max(rows * _activations(setup, below.apart), _sharing(setup, below, rows))


def _sharing(setup: Setup, below: Below, rows: int) -> float:
    """Return the bytes for that many rows below the same passages, in the kernel for short rows or that for long ones.

    Each row has a copy of the keys and values that it sees, and in the former so has each row's length of passages.
    """

    def needed(seen: int) -> float:
        tokens = max(0, seen - below.own) + rows * below.own
        size, copies = (FLOAT, tokens / max(1, below.own)) if seen <= SHORT else (setup.dtype_bytes, rows)
        copied = setup.layers * size * copies * seen * 2 * setup.shape.keys
        return tokens * (kept_bytes(setup, seen) + _passing(setup, seen, backward=True)) + copied

    length = below.shared + below.own
    return max(needed(min(length, SHORT)), needed(length))


def _activations(setup: Setup, row_tokens: int) -> float:
    """Return the bytes for one row of up to so many tokens: the longest rows for one kernel may need the most."""
    lengths = (min(row_tokens, SHORT), row_tokens)
    return max(
        length * (kept_bytes(setup, length) + _passing(setup, length, backward=True)) for length in lengths
    )


def kept_bytes(setup: Setup, row_tokens: int) -> float:
    """Return the bytes that the layers keep of one token for the backward pass, in a row of so many."""
    size, adapters = setup.dtype_bytes, setup.ranks + setup.results
    if not setup.fused:
        adapters += setup.inputs
    masks = FLOAT * setup.inputs if setup.dropout else 0
    kept = setup.layers * _layer_bytes(setup, row_tokens) + size * adapters + masks
    if not setup.checkpointing:
        return kept
    entering = (1 if setup.offloaded else setup.layers) * size * setup.shape.width
    return entering + kept / setup.layers  # one layer is computed again at a time


def _layer_bytes(setup: Setup, row_tokens: int) -> float:
    """Return the bytes that one layer keeps of a token, whether it has adapters or not."""
    shape, size = setup.shape, setup.dtype_bytes
    residual = 2 * FLOAT * shape.width  # before each norm, in float32
    entering = 2 * shape.width + shape.queries + shape.inner  # of attention, output, gates and down
    if not setup.fused:
        # Where rows are padded, torch has keys and values once for each query, and a mask of numbers.
        attention = 4 * shape.queries + row_tokens
        read = entering if setup.quantization == "int8" else 0  # bitsandbytes keeps it
        normed = FLOAT * (shape.queries + shape.keys) if setup.head_norms else 0
        return size * (attention + 3 * shape.inner + read) + residual + normed
    heads = shape.queries + 2 * shape.keys
    if setup.head_norms:  # queries and keys before their norms, values beside them
        residual += size * heads
    short = FLOAT * (heads + shape.heads * row_tokens)  # computed in float32
    attention = short if row_tokens <= SHORT else 2 * size * heads
    return size * (entering + 2 * shape.inner) + attention + residual


def _passing(setup: Setup, row_tokens: int, *, backward: bool = False) -> float:
    """Return the bytes a token that the layer being computed needs for a moment, forward or back."""
    shape, size = setup.shape, setup.dtype_bytes
    attention = 4.0 * shape.queries + 2 * shape.keys
    if setup.fused and backward and row_tokens <= SHORT:  # a bias and the softmax's gradients, in float32
        attention = FLOAT / size * (attention + 3 * shape.heads * row_tokens)
    # Back, the gradients of both factors; forward, what base and adapter put out and their sum beside both.
    mlp = (2 if backward and not setup.fused else 5) * shape.inner
    return size * max(attention, mlp) + 3 * FLOAT * shape.width


def _answering(setup: Setup, prompt_tokens: int, new_tokens: int) -> Parts:
    """Return what greedy answers hold beside the model: prompts read, keys and values, one row of logits each."""
    shape, size, rows = setup.shape, setup.dtype_bytes, prompts_at_once(prompt_tokens)
    one_layer = rows * (prompt_tokens + new_tokens) * 2 * shape.keys * size
    return Parts(
        activations=rows * prompt_tokens * _passing(setup, prompt_tokens),
        logits=rows * shape.vocabulary * (size + FLOAT),
        cache=one_layer * (shape.layers + 1),  # a layer's cache is copied when it grows
        libraries=CUDA_BYTES if setup.cuda else LIBRARIES_BYTES,
    )
