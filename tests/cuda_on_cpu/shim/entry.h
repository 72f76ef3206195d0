// A kernel as cuLaunchKernel calls it: each argument is raw bytes behind a void*. Its signature is exported too, so that
// the launcher can reject a wrong count, kind or size.
#pragma once
namespace emu {
template <class... P, size_t... I>
EMU_OWN void call(void (*kernel)(P...), void** a, std::index_sequence<I...>) {
  kernel(*(std::remove_cv_t<P>*)a[I]...);
}
template <class... P>
EMU_OWN void call(void (*kernel)(P...), void** a) { call(kernel, a, std::index_sequence_for<P...>{}); }

template <class P>
constexpr int kind() {
  char letter = std::is_pointer_v<P> ? 'P' : std::is_floating_point_v<P> ? 'f' : std::is_integral_v<P> ? 'i' : 's';
  return letter << 8 | (int)sizeof(P);
}
template <class... P>
static inline int signature(void (*)(P...), int* out) {
  int n = 0;
  ((out[n++] = kind<P>()), ...);
  return n;
}
}  // namespace emu
#define EMU_EXPORT(NAME)                                                          \
  extern "C" EMU_OWN void emu_entry_##NAME(void** a) { emu::call(NAME, a); }      \
  extern "C" int emu_signature_##NAME(int* out) { return emu::signature(NAME, out); }
