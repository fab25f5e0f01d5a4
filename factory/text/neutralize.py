"""Special tokens and control characters that stand in documents, made harmless. Pure functions of str.

A tokenizer turns `<|im_start|>` into a control token wherever it stands, so that a document could open a turn
of its own. A space after the first character keeps it readable, and ordinary text: `< |im_start|>`.
"""

import re
from collections.abc import Sequence
from functools import cache

from factory.text.clean import BREAKS, INVISIBLE

# Of Llama, Mistral, Gemma, T5, BERT, SmolLM and StarCoder; those of ChatML, GPT, Llama 3, Phi and DeepSeek
# are the first of FAMILIES.
_KNOWN = """
    <s> </s> <bos> <eos> <pad> <unk> <mask> <sep> <cls> <eod> <start_of_turn> <end_of_turn> <think> </think>
    <tool_call> </tool_call> <tool_response> </tool_response> <tools> </tools>
    [INST] [/INST] <<SYS>> <</SYS>> [SYSTEM_PROMPT] [/SYSTEM_PROMPT] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS]
    [TOOL_CALLS] [TOOL_RESULTS] [/TOOL_RESULTS] [CLS] [SEP] [MASK] [PAD] [UNK] [BOS] [EOS] [gMASK]
    <repo_name> <reponame> <file_sep> <filename> <gh_stars> <issue_start> <issue_comment> <issue_closed>
    <jupyter_start> <jupyter_text> <jupyter_code> <jupyter_output> <jupyter_script> <empty_output>
    <fim_prefix> <fim_middle> <fim_suffix> <fim_pad> <start_of_image> <end_of_image> <image_soft_token>
"""
KNOWN_TOKENS = tuple(_KNOWN.split())
FAMILIES = (r"<[|｜][^<>\n]{0,80}[|｜]>", r"<extra_id_\d+>", r"<unused\d+>", r"\[unused\d+\]")  # noqa: RUF001


def neutralize(text: str, special_tokens: Sequence[str]) -> str:
    """Return a text in which no tokenizer finds one of these special tokens, nor of the common ones.

    Doing it again changes nothing. Tokens are found whatever their case. One of a single character is
    removed, as nothing can be put inside it; one of white space only is left alone. Control characters other
    than line feed and tab are removed.
    """
    text = INVISIBLE.sub("", BREAKS.sub("\n", text))
    pattern = _pattern(tuple(special_tokens))
    while pattern.search(text):
        text = pattern.sub(_broken, text)
    return text


def _broken(match: re.Match[str]) -> str:
    token = match.group()
    return f"{token[0]} {token[1:]}" if len(token) > 1 else ""


@cache
def _pattern(special_tokens: tuple[str, ...]) -> re.Pattern[str]:
    """Return what finds any of the tokens, longest first, whatever white space they have at their ends."""
    cores = {token.strip() for token in (*KNOWN_TOKENS, *special_tokens)} - {""}
    known = sorted(cores, key=lambda core: (-len(core), core))
    return re.compile("|".join([*FAMILIES, *map(re.escape, known)]), re.IGNORECASE)
