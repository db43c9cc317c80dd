"""The ``wgmma`` instruction as a function of CUDA C++."""

from __future__ import annotations


def wgmma(
    name: str, shape: str, kinds: str, modes: str, columns: int, *, sums: str = "float", registers: bool = False
) -> str:
    """An instruction of ``shape`` for ``columns`` columns; ``registers``: A lies there, not in shared memory.

    ``kinds`` are PTX's types of the sums and both operands, ``modes`` what follows the predicate, commas included.
    """
    count = columns // 2
    if registers:
        a_type, given = "const unsigned (&a)[4]", ", ".join(f'"r"(a[{i}])' for i in range(4))
        a_code, following = f"{{{', '.join(f'%{count + i}' for i in range(4))}}}", count + 4
    else:
        a_type, given = "unsigned long long a", '"l"(a)'
        a_code, following = f"%{count}", count + 1
    numbers = ", ".join(f"%{i}" for i in range(count))
    kept = "r" if kinds.startswith("s32") else "f"
    results = ", ".join(f'"+{kept}"(d[{i}])' for i in range(count))
    return f"""
INGOT_INLINE void {name}({sums} (&d)[{count}], {a_type}, unsigned long long b, bool accumulate) {{
  asm volatile(
      "{{\\n.reg .pred p;\\nsetp.ne.b32 p, %{following + 1}, 0;\\n"
      "wgmma.mma_async.sync.aligned.{shape}.{kinds} "
      "{{{numbers}}}, {a_code}, %{following}, p{modes};\\n}}"
      : {results}
      : {given}, "l"(b), "r"((int)accumulate));
}}
"""
