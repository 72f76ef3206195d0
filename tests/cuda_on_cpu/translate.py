"""CUDA C++ to what g++ takes: two rewrites of the text, line numbers kept.

extern __shared__ T x[];       becomes a pointer to a buffer of exactly the launch's size
asm("op text" : outs : ins)    becomes a call emu_ptx_op(operands in the order of the text), defined in shim/ptx.h
"""

import re

ENTRY = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(')
_DYNAMIC = re.compile(r"extern\s+__shared__\s+(?:__align__\((\d+)\)\s*)?([\w ]+?)\s+(\w+)\s*\[\s*\]\s*;")
_ASM = re.compile(r"\basm\s*(?:volatile)?\s*\(")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_OPERAND = re.compile(r'\s*"[^"]*"\s*\((.*)\)\s*$', re.S)


def entries(source):
    """The names of the kernels in a source."""
    return ENTRY.findall(source)


def translate(source):
    """The source for g++."""
    source = _DYNAMIC.sub(lambda m: f"{m[2]}* {m[3]} = ({m[2]}*)emu_dynamic_shared({m[1] or 16});", source)
    out, done = [], 0
    for match in _ASM.finditer(source):
        end = _closing(source, match.end())
        call = _instruction(source[match.end() : end])
        out += [source[done : match.start()], call, "\n" * source.count("\n", match.start(), end)]
        done = end + 1
    return "".join([*out, source[done:]])


def _closing(text, start):
    """The place of the bracket that closes the one before `start`."""
    depth, quoted = 1, False
    for i in range(start, len(text)):
        if text[i] == '"' and text[i - 1] != "\\":
            quoted = not quoted
        elif not quoted:
            depth += (text[i] in "([{") - (text[i] in ")]}")
            if depth == 0:
                return i
    raise ValueError("an asm statement is not closed")


def _split(text, separator):
    """The parts of a text between separators that stand outside of brackets and quotes."""
    parts, depth, quoted = [""], 0, False
    for i, letter in enumerate(text):
        if letter == '"' and text[i - 1 : i] != "\\":
            quoted = not quoted
        depth += 0 if quoted else (letter in "([{") - (letter in ")]}")
        if letter == separator and depth == 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _instruction(inside):
    """One call for one PTX instruction; its operands may be registers (%n) and immediate integers."""
    text, *lists = _split(inside, ":")
    text = "".join(_STRING.findall(text)).strip()
    if text.count(";") != 1:
        raise ValueError(f"one instruction in each asm, please: {text}")
    operands = [_OPERAND.match(o)[1] for some in lists[:2] for o in _split(some, ",") if o.strip()]
    name, _, rest = text.rstrip("; ").partition(" ")
    arguments = [
        operands[int(register)] if register else number
        for register, number in re.findall(r"%(\d+)|(?<![\w.%])(\d+)(?![\w.])", rest)
    ]
    return f"emu_ptx_{re.sub(r'[.:]+', '_', name)}({', '.join(arguments)})"
