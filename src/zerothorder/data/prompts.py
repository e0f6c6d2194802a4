"""From filled templates to token ids: chat wrapping, answers that continue a prompt, cutting to a length."""

from collections.abc import Mapping, Sequence
from typing import Any

from zerothorder.data.quiet import one_sentence
from zerothorder.data.templates import Template
from zerothorder.errors import UsageError

Ids = tuple[int, ...]


class Prompter:
    """One tokenizer and one template, with or without the tokenizer's chat template around it."""

    def __init__(self, tokenizer: Any, template: Template, chat: bool) -> None:
        self.tokenizer, self.template, self.chat = tokenizer, template, chat
        if chat and not tokenizer.chat_template:
            raise UsageError("this model's tokenizer has no chat template: leave chat out or take an instruct model")

    def plain(self, text: str) -> Ids:
        """A text without the tokens that the tokenizer puts around it."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def prompts(self, cells: Sequence[Mapping[str, str]]) -> list[Ids]:
        """The template filled with each row's values, as tokens."""
        texts = [self._in_chat(self.template.fill(values)) for values in cells]
        if not texts:
            return []
        # A chat template writes the special tokens itself.
        return [tuple(ids) for ids in self.tokenizer(texts, add_special_tokens=not self.chat)["input_ids"]]

    def continuation(self, word: str) -> Ids:
        """The tokens of an answer where it stands: after a space, or straight after a line end."""
        end = self._in_chat("x") if self.chat else self.template.tail
        before, joint = ("\n", "") if end[-1:].isspace() else ("a", " ")
        # Some tokenizers mark the start of every text, so the word is read behind another one.
        anchor, both = self.plain(before), self.plain(before + joint + word)
        return both[len(anchor) :] if both[: len(anchor)] == anchor else self.plain(joint + word)

    def shortened(self, cells: Mapping[str, str], room: int) -> tuple[Ids, bool]:
        """The prompt with `text`, then the longest others, cut from the left; and whether it fits `room`."""
        values = dict(cells)
        prompt = self.prompts([values])[0]
        for column in sorted(values, key=lambda name: (name != "text", -len(values[name]))):
            while values[column] and len(prompt) > room:
                values[column] = self._without(values[column], len(prompt) - room)
                prompt = self.prompts([values])[0]
        # A prompt that has lost all of its data asks nothing.
        return prompt, len(prompt) <= room and any(values.values())

    def _without(self, text: str, tokens: int) -> str:
        """The text less about `tokens` tokens of its left end, and at least one character."""
        if self.tokenizer.is_fast:
            read = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            offsets = read["offset_mapping"]
            cut = offsets[tokens][0] if tokens < len(offsets) else len(text)
        else:
            cut = len(text) * tokens // max(1, len(self.plain(text)))
        return text[max(1, cut) :].lstrip()

    def _in_chat(self, content: str) -> str:
        if not self.chat:
            return content
        message = [{"role": "user", "content": content}]
        try:
            return self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        except Exception as error:
            raise UsageError(
                f"the tokenizer's chat template fails ({one_sentence(error)}): leave chat out or use another model"
            ) from error
