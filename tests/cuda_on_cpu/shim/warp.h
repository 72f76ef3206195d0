// Warp collectives: the lanes that a mask names meet, a function runs once over what they brought, they go on.
// Lanes that have left the kernel are left out, as on Volta and later; reading one is an error.
#pragma once
namespace emu {
enum Source { INDEX, UP, DOWN, XOR };

template <class T>
struct Shuffle {
  T value, result;
  int source, operand, width, line;
};

// PTX ISA, "shfl.sync": a lane whose source lies outside its segment keeps its own value.
template <class T>
EMU_OWN void shuffle(void** lanes, unsigned here) {
  for (int lane = 0; lane < 32; lane++) {
    if (!(here >> lane & 1)) continue;
    auto* s = (Shuffle<T>*)lanes[lane];
    int w = s->width, first = lane & ~(w - 1), from = lane;
    if (s->source == INDEX) from = first + (s->operand & (w - 1));
    if (s->source == UP && lane - s->operand >= first) from = lane - s->operand;
    if (s->source == DOWN && lane + s->operand < first + w) from = lane + s->operand;
    if (s->source == XOR && (lane ^ s->operand) < first + w) from = lane ^ s->operand;
    if (!(here >> from & 1)) return emu_fail("shuffle reads a lane that is not there", s->line);
    s->result = ((Shuffle<T>*)lanes[from])->value;
  }
}
template <class T>
EMU_OWN T shuffled(unsigned mask, T v, int source, int operand, int width, int line) {
  Shuffle<T> s{v, v, source, operand, width, line};
  emu_collective(mask, shuffle<T>, &s, false, line);
  return s.result;
}

struct Vote {
  int value;
  unsigned result;
};
EMU_OWN inline void vote(void** lanes, unsigned here) {
  unsigned bits = 0;
  for (int l = 0; l < 32; l++)
    if (here >> l & 1 && ((Vote*)lanes[l])->value) bits |= 1u << l;
  for (int l = 0; l < 32; l++)
    if (here >> l & 1) ((Vote*)lanes[l])->result = bits;
}
EMU_OWN inline unsigned ballot(unsigned mask, int v, int line) {
  Vote x{v, 0};
  emu_collective(mask, vote, &x, false, line);
  return x.result;
}
EMU_OWN inline void meet(void**, unsigned) {}
}  // namespace emu

template <class T>
static inline T __shfl_sync(unsigned m, T v, int lane, int width = 32, EMU_LINE) {
  return emu::shuffled(m, v, emu::INDEX, lane, width, line);
}
template <class T>
static inline T __shfl_up_sync(unsigned m, T v, unsigned by, int width = 32, EMU_LINE) {
  return emu::shuffled(m, v, emu::UP, (int)by, width, line);
}
template <class T>
static inline T __shfl_down_sync(unsigned m, T v, unsigned by, int width = 32, EMU_LINE) {
  return emu::shuffled(m, v, emu::DOWN, (int)by, width, line);
}
template <class T>
static inline T __shfl_xor_sync(unsigned m, T v, int with, int width = 32, EMU_LINE) {
  return emu::shuffled(m, v, emu::XOR, with, width, line);
}
static inline unsigned __ballot_sync(unsigned m, int v, EMU_LINE) { return emu::ballot(m, v, line); }
static inline int __any_sync(unsigned m, int v, EMU_LINE) { return emu::ballot(m, v, line) != 0; }
static inline int __all_sync(unsigned m, int v, EMU_LINE) { return emu::ballot(m, !v, line) == 0; }
static inline void __syncwarp(unsigned m = 0xffffffffu, EMU_LINE) { emu_collective(m, emu::meet, nullptr, true, line); }
