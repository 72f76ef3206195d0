// The checked build: g++ instruments every access with calls to __tsan_*, and arithmetic with calls to __ubsan_*. No
// sanitizer library is linked; the functions behind these names stand here and know CUDA's rules:
//   memcheck   an address in no argument, shared array, constant or own stack; a misaligned one
//   racecheck  two threads of a block in one barrier interval, or two blocks, one of them writing, unless in one warp
//              with a __syncwarp between or both atomic
//   initcheck  shared memory that no thread of this block has written
#include "runtime.h"
#include <cstring>

static std::string distance(const Region& r, const char* p) {
  return " at " + r.name + (p < r.low ? "[" : "+[") + std::to_string((long)(p - r.low)) + "] of " +
         std::to_string(r.high - r.low) + " bytes";
}

static Region* region_of(const char* p) {
  static Region* last;
  static const Region* base;
  if (base == regions.data() && last && last < regions.data() + regions.size() && p >= last->low && p < last->high)
    return last;
  base = regions.data(), last = nullptr;
  for (auto& r : regions)
    if (p >= r.low && p < r.high) return last = &r;
  return nullptr;
}

// Whether the access of this thread to a byte conflicts with the last write (or read) that its shadow remembers.
static bool conflict(const Shadow& s, bool with_write, bool global) {
  uint32_t when = with_write ? s.write_interval : s.read_interval;
  if (!when) return false;
  if (when < first_interval) return global;  // another block of this launch
  if (when < interval) return false;         // a barrier lies between
  if (with_write || s.readers == 0) {
    int other = with_write ? s.writer : s.reader;
    if (other == current->index) return false;
    uint32_t warp_when = with_write ? s.write_warp_interval : s.read_warp_interval;
    return other / 32 != current->index / 32 || warp_when == warp_interval[current->index / 32];
  }
  int warp = current->index / 32;
  return s.readers == 2 || s.reader / 32 != warp || s.read_warp_interval == warp_interval[warp];
}

void check_access(const char* p, int n, int access, const void* where) {
  if (!checking || !current || (p >= current->stack && p < current->stack + STACK)) return;
  Region* r = region_of(p);
  if (!r || p + n > r->high) {
    std::string what = std::string("OUT OF BOUNDS ") + (access == READ ? "read" : "write") + " of " + std::to_string(n) + " bytes";
    for (auto& near : regions)
      if (p + 4096 > near.low && p < near.high + 4096) {
        what += distance(near, p);
        break;
      }
    return stop(what, where);
  }
  if (r->kind == CONSTANT && access != READ) return stop("OUT OF BOUNDS write to constant memory " + r->name, where);
  if (r->shadow.empty()) return;
  if ((n == 2 || n == 4 || n == 8 || n == 16) && (uintptr_t)p % n)
    return stop("MISALIGNED " + std::to_string(n) + "-byte access" + distance(*r, p), where);
  int warp = current->index / 32;
  bool global = r->kind == GLOBAL, race = false, garbage = false;
  for (Shadow* s = &r->shadow[p - r->low]; n--; s++) {
    if (access != WRITE && r->kind == SHARED && !s->written) garbage = true;
    if (!(access == ATOMIC && s->atomic) && conflict(*s, true, global)) race = true;
    if (access != READ && conflict(*s, false, global)) race = true;
    if (access != READ) {
      s->write_interval = interval, s->writer = current->index, s->write_warp_interval = warp_interval[warp];
      s->written = 1, s->atomic = access == ATOMIC;
    } else {
      if (s->read_interval != interval) s->readers = 0;
      else if (s->reader != current->index) s->readers = s->readers == 2 || s->reader / 32 != warp ? 2 : 1;
      s->read_interval = interval, s->reader = current->index, s->read_warp_interval = warp_interval[warp];
    }
  }
  if (race) report("RACE on" + distance(*r, p).substr(3) + (access == READ ? ", read" : access == WRITE ? ", write" : ", atomic"), where);
  if (garbage) report("UNINITIALISED read" + distance(*r, p), where);
}

extern "C" {
void emu_access(const void* p, int n, int access) { check_access((const char*)p, n, access, __builtin_return_address(0)); }

#define HOOK(NAME, N, ACCESS) \
  void __tsan_##NAME##N(void* p) { check_access((const char*)p, N, ACCESS, __builtin_return_address(0)); }
#define HOOKS(N) HOOK(read, N, READ) HOOK(write, N, WRITE) HOOK(unaligned_read, N, READ) HOOK(unaligned_write, N, WRITE)
HOOKS(1) HOOKS(2) HOOKS(4) HOOKS(8) HOOKS(16)
void __tsan_read_range(void* p, long n) { check_access((const char*)p, (int)n, READ, __builtin_return_address(0)); }
void __tsan_write_range(void* p, long n) { check_access((const char*)p, (int)n, WRITE, __builtin_return_address(0)); }
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}

struct Place {
  const char* file;
  uint32_t line, column;
};
static void undefined(Place* at, const char* what) {
  if (current) stop(std::string("UNDEFINED: ") + what + " (line " + std::to_string(at->line) + ")", nullptr);
}
#define UNDEFINED1(NAME, WHAT) void __ubsan_handle_##NAME(Place* at, void*) { undefined(at, WHAT); }
#define UNDEFINED2(NAME, WHAT) void __ubsan_handle_##NAME(Place* at, void*, void*) { undefined(at, WHAT); }
UNDEFINED1(out_of_bounds, "array index out of bounds")
UNDEFINED2(add_overflow, "signed overflow in +")
UNDEFINED2(sub_overflow, "signed overflow in -")
UNDEFINED2(mul_overflow, "signed overflow in *")
UNDEFINED1(negate_overflow, "signed overflow in unary -")
UNDEFINED2(divrem_overflow, "division by zero, or its overflow")
UNDEFINED2(shift_out_of_bounds, "shift out of range")
UNDEFINED1(type_mismatch_v1, "misaligned or null access")
}
