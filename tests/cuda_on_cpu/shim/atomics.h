// One CPU thread runs all fibers and none is interrupted, so a plain update is atomic; the checker is told of it.
#pragma once
#define EMU_ATOMIC(NAME, NEW)                         \
  template <class T>                                  \
  EMU_OWN T NAME(T* p, std::common_type_t<T> v) {     \
    emu_access(p, sizeof(T), 2);                      \
    T old = *p;                                       \
    *p = (NEW);                                       \
    return old;                                       \
  }
EMU_ATOMIC(atomicAdd, old + v)
EMU_ATOMIC(atomicSub, old - v)
EMU_ATOMIC(atomicMax, old > v ? old : v)
EMU_ATOMIC(atomicMin, old < v ? old : v)
EMU_ATOMIC(atomicExch, v)
EMU_ATOMIC(atomicOr, old | v)
EMU_ATOMIC(atomicAnd, old & v)
template <class T>
EMU_OWN T atomicCAS(T* p, std::common_type_t<T> expected, std::common_type_t<T> v) {
  emu_access(p, sizeof(T), 2);
  T old = *p;
  if (old == expected) *p = v;
  return old;
}
