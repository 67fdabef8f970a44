"""A loaded model with its tokenizer: sizes, encoding, logits, greedy text, weights and edited views."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from models.architectures import Architecture, architecture_of, as_out_in, context_length
from models.calls import calling
from models.forwards.head import only_at
from models.generation import Sampling, batches, drawn, greedy
from models.text.text_model import TextModel
from models.text.tokens import pad
from models.views import LowRank, Rewrite, plain, share, tensors_digest


class LanguageModel(TextModel):
    """A decoder in evaluation mode, without gradients.

    Args:
        name: what the user calls it.
        revision: a hex digest that changes whenever the weights do; part of every cache key.
        module: a causal language model of transformers.
        tokenizer: a fast tokenizer.
        origin: what the weights were before, where that changed them: "dequantised from Q4_1 and Q8_0".
        part_of: `config.model_type` of the whole of which this is the text model; empty where it is the whole.

    Raises:
        ValueError: if the family is not supported or a needed part is missing.
    """

    def __init__(
        self,
        name: str,
        revision: str,
        module: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        *,
        origin: str = "",
        part_of: str = "",
    ) -> None:
        self.name = name
        self.origin, self.part_of = origin, part_of
        self.revision = revision
        self.module = module.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.architecture: Architecture = architecture_of(module)
        self.lock = threading.RLock()
        """Held for any forward on this module: nnsight fails when another thread runs the same module."""
        self.findings: dict[str, str] = {}
        """Measured properties of how the module computes, whatever its weights; shared with its views."""
        self.chat = False

    def __repr__(self) -> str:
        return f"LanguageModel({self.name!r}, {self.architecture.family}, {self.n_layers} layers x {self.d_model})"

    def origin_notes(self) -> tuple[str, ...]:
        """A sentence on the origin of the weights, for commands to print; none if they are as published."""
        return (f"the weights of {self.name} are {self.origin}",) if self.origin else ()

    @property
    def plain(self) -> bool:
        """Whether its answers are its module's and that consists of transformers' own parts, without hooks.

        Then a row's logits depend on its tokens alone.
        """
        return plain(self.module)

    @property
    def packable(self) -> bool:
        """Whether rows may be padded on the left, and packed: what mixes tokens without attention heeds no mask."""
        return self.plain and not self.architecture.mixed

    @property
    def bare(self) -> LanguageModel:
        """The model that reads a row as `behind_prefix` gives it: itself, unless it puts words before every prompt."""
        return self

    def behind_prefix(self, row: Sequence[int]) -> tuple[list[int], int]:
        """A row of token ids as `bare` reads it, and how many of its tokens stay in front of what was inserted."""
        return list(row), 0

    # ---- sizes

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(list(self.submodules[self.architecture.layers].children()))

    @property
    def n_heads(self) -> int:
        """Number of query heads in a block."""
        return int(self.module.config.num_attention_heads)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.module.config.hidden_size)

    @property
    def d_mlp(self) -> int:
        """Width of the MLP's hidden state, the input of the down projection."""
        module = self.key_module(0)
        if isinstance(module, nn.Linear):
            return module.in_features  # a quantised layer packs its weight into another shape
        return int(as_out_in(module, self.weight(self.architecture.key_weight_name(0))).shape[1])

    @property
    def d_vocab(self) -> int:
        """Number of logits at a position; may exceed the tokenizer's vocabulary."""
        return int(self.weight(f"{self.architecture.head}.weight").shape[0])

    @property
    def max_positions(self) -> int:
        """Longest sequence the model takes, in tokens."""
        return context_length(self.module.config)

    @property
    def device(self) -> torch.device:
        """Where the token embedding runs; inputs go there."""
        device = self._embedding_weight.device
        if device.type != "meta":
            return device
        # accelerate keeps offloaded weights elsewhere and brings them where its hook on the module says
        hook = getattr(self.module.get_submodule(self.architecture.embedding), "_hf_hook", None)
        return torch.device(getattr(hook, "execution_device", device))

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights."""
        return self._embedding_weight.dtype

    @property
    def _embedding_weight(self) -> Tensor:
        """[d_vocab, d_embedding], the token embedding."""
        return self.weight(f"{self.architecture.embedding}.weight")

    @property
    def eos_ids(self) -> frozenset[int]:
        """Token ids that end a text."""
        configured = self.module.generation_config.eos_token_id if self.module.generation_config else None
        ids = configured if isinstance(configured, list) else [configured]
        return frozenset(int(i) for i in [*ids, self.tokenizer.eos_token_id] if i is not None)

    # ---- forward

    @torch.no_grad()
    def logits(
        self,
        input_ids: Tensor,
        lengths: Sequence[int] | Tensor | None = None,
        prompt_lengths: Sequence[int] | Tensor | None = None,
    ) -> Tensor:
        """Logits of right-padded rows.

        No attention mask is passed: attention is causal, so no real token sees the padding after it, and without
        a mask a row takes the same kernel alone as in a batch.

        Args:
            input_ids: [batch, pos], padded on the right with any valid id.
            lengths: [batch], tokens in each row; logits after a row's end are 0.
            prompt_lengths: [batch], tokens of each row's prompt, where an answer follows it; by default the whole row.
                Edits that decide by the prompt read only this part of a row.

        Returns:
            [batch, pos, d_vocab], float32, on the model's device.

        Raises:
            ValueError: if the ids are not [batch, pos] or longer than the model's context, or a prompt is longer than
                its row.
        """
        ids = self.checked_ids(input_ids)
        positions = torch.arange(ids.shape[1], device=self.device).expand(ids.shape)
        with self.lock, calling(self.prompt_ends(ids, lengths, prompt_lengths)):
            logits = self.module(input_ids=ids, position_ids=positions, use_cache=False).logits.float()
        if lengths is not None:
            ends = torch.as_tensor(lengths, device=self.device)
            logits.masked_fill_((positions >= ends[:, None])[..., None], 0.0)
        return logits

    def logits_where(
        self,
        rows: Sequence[Sequence[int]],
        places: Sequence[Sequence[int]],
        prompt_lengths: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """The logits at some positions of rows of token ids; those of all would be most of the work of many models.

        Args:
            places: positions of each row.
            prompt_lengths: as for `logits`.

        Returns:
            [n, d_vocab] for each row, float32, on the model's device.

        Raises:
            ValueError: as `logits`.
        """
        ids, lengths = pad(rows, self.pad_id)
        ids = self.checked_ids(ids)
        at = torch.tensor([(row, pos) for row, some in enumerate(places) for pos in some]).T
        positions = torch.arange(ids.shape[1], device=self.device).expand(ids.shape)
        head = self.submodules[self.architecture.head]
        ends = self.prompt_ends(ids, lengths, prompt_lengths)
        with torch.no_grad(), self.lock, calling(ends), only_at(head, (at[0], at[1])):
            logits = self.module(input_ids=ids, position_ids=positions, use_cache=False).logits[0]
        return list(logits.to(self.device, torch.float32).split([len(some) for some in places]))

    def prompt_ends(
        self,
        input_ids: Tensor,
        lengths: Sequence[int] | Tensor | None,
        prompt_lengths: Sequence[int] | Tensor | None,
    ) -> Tensor:
        """[batch], prompt length of each row in tokens: as given, else the row's length, else all positions.

        Raises:
            ValueError: if there is not one for each row, or one is not between 1 and the row's length.
        """
        given = lengths if prompt_lengths is None else prompt_lengths
        if given is None:
            return torch.full((len(input_ids),), input_ids.shape[1], device=self.device)
        ends = torch.as_tensor(given, device=self.device)
        if ends.shape != (len(input_ids),) or bool((ends < 1).any() | (ends > input_ids.shape[1]).any()):
            raise ValueError(
                f"the prompts are {ends.tolist()} tokens long; expected {len(input_ids)} numbers from 1 to "
                f"{input_ids.shape[1]}, one for each row"
            )
        return ends

    def checked_ids(self, input_ids: Tensor) -> Tensor:
        """The ids on the model's device, [batch, pos].

        Raises:
            ValueError: if they are not [batch, pos] or longer than the model's context.
        """
        if input_ids.ndim != 2 or input_ids.shape[1] == 0:
            raise ValueError(f"input_ids have shape {list(input_ids.shape)}; expected [batch, pos] with pos >= 1")
        if input_ids.shape[1] > self.max_positions:
            raise ValueError(f"the rows are {input_ids.shape[1]} tokens long; {self.name} takes {self.max_positions}")
        return input_ids.to(self.device)

    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Greedy continuations, without their prompts.

        A row ends at an end-of-text token, after `max_new_tokens`, or at the context's end.

        Raises:
            ValueError: if a prompt is empty or too long, or `max_new_tokens` is negative.
        """
        if max_new_tokens < 0:
            raise ValueError(f"max_new_tokens is {max_new_tokens}; expected 0 or more")
        rows = [self.encode(prompt) for prompt in prompts]
        continued = self.continuations(rows, max_new_tokens)
        return [self.continuation_text(row, ids) for row, ids in zip(rows, continued, strict=True)]

    def continuations(
        self, rows: Sequence[Sequence[int]], max_new_tokens: int, begun: Sequence[Sequence[int]] | None = None
    ) -> list[list[int]]:
        """`generate` for token ids: the new ids after each row, which must fit the context.

        Args:
            begun: the first new ids of each row, where they are known; the result begins with them.
        """
        new_ids = [list(ids) for ids in begun] if begun is not None else [list[int]() for _ in rows]
        whole = [[*row, *ids] for row, ids in zip(rows, new_ids, strict=True)]
        room = [min(len(row) + max_new_tokens, self.max_positions) for row in rows]
        waiting = [index for index in range(len(rows)) if len(whole[index]) < room[index]]
        # padded rows go on beside the longest row, which must stay within the context
        fits = max(map(len, whole), default=0) + max_new_tokens <= self.max_positions
        for batch in batches([len(whole[index]) for index in waiting], padded=fits and self.packable):
            chosen = [waiting[index] for index in batch]
            prompts = [len(rows[index]) for index in chosen]
            steps = [room[index] - len(whole[index]) for index in chosen]
            with self.lock:
                made = greedy(
                    self.module, [whole[index] for index in chosen], prompts, steps, self.eos_ids, self.device
                )
            for index, ids in zip(chosen, made, strict=True):
                new_ids[index] += ids
        return new_ids

    def draw(self, prompts: Sequence[str], length: int, sampling: Sampling) -> list[str]:
        """Drawn continuations, without their prompts; they go on past an end-of-text token.

        Args:
            length: tokens of each text with its prompt, cut at the context's end.

        Raises:
            ValueError: if a prompt is empty or too long.
        """
        rows = [self.encode(prompt) for prompt in prompts]
        texts = self.drawn(rows, length, sampling)
        return [self.continuation_text(row, ids) for row, ids in zip(rows, texts, strict=True)]

    def drawn(self, rows: Sequence[Sequence[int]], length: int, sampling: Sampling) -> list[list[int]]:
        """`draw` for token ids: the new ids after each row."""
        # a module that decides by the prompt needs the prompt's length
        lengths = {0} if self.plain else {len(row) for row in rows}
        new_ids: list[list[int]] = [[] for _ in rows]
        for n in sorted(lengths if rows else ()):
            chosen = [index for index, row in enumerate(rows) if n in (0, len(row))]
            with self.lock:
                end = min(length, self.max_positions)
                texts = drawn(self.module, [rows[index] for index in chosen], end, sampling, self.device)
            for index, text in zip(chosen, texts, strict=True):
                new_ids[index] = text
        return new_ids

    @torch.no_grad()
    def embedding(self, ids: Sequence[int] | Tensor) -> Tensor:
        """Output of the token embedding, before positions: `[..., d_model]` for ids of shape `[...]`."""
        tokens = torch.as_tensor(ids, device=self.device)
        with self.lock:
            embedded: Tensor = self.module.get_submodule(self.architecture.embedding)(tokens)
        return embedded.clone()

    @cached_property
    def wrapped(self) -> Any:
        """The nnsight wrapper, made on first use with `lock` held; one for each LanguageModel."""
        from nnsight import NNsight

        return NNsight(self.module)

    @cached_property
    def submodules(self) -> dict[str, nn.Module]:
        """Every module by its dotted name, cached: the look-up takes longer than running a small module."""
        return dict(self.module.named_modules())

    # ---- weights

    def key_module(self, layer: int) -> nn.Module:
        """The down projection of one block's MLP."""
        return self.module.get_submodule(self.architecture.key_path(layer))

    def weight(self, name: str) -> Tensor:
        """A parameter or buffer by name, such as `transformer.h.3.mlp.c_proj.weight`; shared, not to be written.

        Raises:
            ValueError: if there is none of that name.
        """
        path, _, attribute = name.rpartition(".")
        try:
            value = getattr(self.module.get_submodule(path), attribute)
        except AttributeError:
            value = None
        if not isinstance(value, Tensor):
            raise ValueError(f"{self.name} has no parameter {name!r}; see `module.named_parameters()` for its names")
        return value

    def weights_digest(self) -> str:
        """sha256 over every parameter and every buffer that is saved with them: name, dtype, shape and bytes.

        Other buffers are computed, and some anew: the rotary frequencies of Phi-3 behind a long text.
        """
        saved = self.module.state_dict().keys()
        buffers = [(name, buffer) for name, buffer in self.module.named_buffers() if name in saved]
        return tensors_digest([*self.module.named_parameters(), *buffers])

    def view(
        self,
        replaced: Mapping[str, Tensor] | None = None,
        rewrites: Mapping[str, Rewrite] | None = None,
        revision: str = "",
    ) -> LanguageModel:
        """A model that shares every tensor with this one except the replaced ones.

        It answers bit for bit as this model would with the values written into it, has its own lock, and may be
        hooked, traced and run beside this one.  Its revision differs from this one's when anything is changed.

        Args:
            replaced: parameter name -> new value of the same shape; copied, so the caller may reuse it.
            rewrites: path of a layer -> function from its input and output to what it gives instead.
            revision: digest of the change, for a caller who has one; it must be given with rewrites.

        Raises:
            ValueError: if a name is unknown, a shape differs, a value is not finite, or rewrites have no revision.
        """
        values = dict(replaced or {})
        if rewrites and not revision:
            raise ValueError("rewritten layers cannot be hashed; give the revision of the view")
        with self.lock:
            module = share(self.module, values, rewrites)
        if not revision:
            revision = self.revision
            if values:
                revision = hashlib.sha256(f"{revision} {tensors_digest(sorted(values.items()))}".encode()).hexdigest()
        made = LanguageModel(self.name, revision, module, self.tokenizer, origin=self.origin, part_of=self.part_of)
        made.findings, made.chat = self.findings, self.chat
        return made

    def as_hosted(self) -> tuple[LanguageModel, Sequence[LowRank]]:
        """The model as a host serves it, and what its edits add to that.

        Raises:
            ValueError: if an edit is not a change of weights of low rank.
        """
        return self, ()
