// CUDA's execution model on one CPU thread: a fiber per CUDA thread of a block, blocks one after the other.
// A fiber runs until its next barrier or warp collective. The order in which they run is forward, reverse or drawn.
#include "runtime.h"
#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#ifndef __x86_64__
#include <ucontext.h>
#endif

std::vector<Region> regions;
std::vector<uint32_t> warp_interval;
uint32_t interval, first_interval;
Fiber* current;
bool checking, stopped;

static std::vector<Fiber> fibers;
static std::vector<char*> stacks;
static void* scheduler;
static dim3 block_index, block_size, grid_size;
static int alive;
static void (*entry)(void**);
static void** arguments;
static char* dynamic_shared;
static size_t dynamic_bytes;
static uint64_t random_state;
static bool random_landing;  // whether a cp.async may be over at once, as it may on a chip, or only at its wait
static uint64_t drawn() {
  random_state ^= random_state << 13, random_state ^= random_state >> 7, random_state ^= random_state << 17;
  return random_state;
}
static std::string findings;
static int finding_count;

// --- switching stacks ---

#ifdef __x86_64__
extern "C" void emu_switch(void** save, void* to);
asm(".text\n.hidden emu_switch\n.globl emu_switch\nemu_switch:\n"
    " push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
    " mov %rsp,(%rdi)\n mov %rsi,%rsp\n"
    " pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret\n");
static void prepare(Fiber& f, void (*start)()) {
  void** top = (void**)(f.stack + STACK) - 1;
  *--top = (void*)start;
  f.sp = top - 6;
}
#else
static ucontext_t scheduler_context;
static std::vector<ucontext_t> contexts(1024);
static void emu_switch(void** save, void* to) {
  swapcontext(save == &scheduler ? &scheduler_context : (ucontext_t*)*save,
              to == scheduler ? &scheduler_context : (ucontext_t*)to);
}
static void prepare(Fiber& f, void (*start)()) {
  ucontext_t* c = &contexts[f.index];
  getcontext(c);
  c->uc_stack.ss_sp = f.stack;
  c->uc_stack.ss_size = STACK;
  makecontext(c, start, 0);
  f.sp = c;
}
#endif

static void yield() { emu_switch(&current->sp, scheduler); }

// --- findings ---

void report(const std::string& what, const void* where) {
  if (finding_count++ >= 8) return;
  char place[200];
  dim3 t = current ? current->thread : dim3{0, 0, 0};
  snprintf(place, sizeof place, " block(%u,%u,%u) thread(%u,%u,%u) @%p\n", block_index.x, block_index.y, block_index.z,
           t.x, t.y, t.z, where);
  findings += what + place;
}

void stop(const std::string& what, const void* where) {
  report(what, where);
  stopped = true;
  if (current) {
    yield();
    abort();  // a stopped launch never comes back
  }
}

// --- barriers and collectives ---

static bool all_at_barrier() {
  int waiting = 0;
  for (auto& f : fibers) waiting += f.state == AT_BARRIER;
  return waiting && waiting == alive;
}

static void release_barrier() {
  int any = 0, all = 1, count = 0, line = -1;
  for (auto& f : fibers)
    if (f.state == AT_BARRIER) {
      if (line >= 0 && f.line != line)
        stop("DIVERGENT __syncthreads: lines " + std::to_string(line) + " and " + std::to_string(f.line), nullptr);
      line = f.line;
      any |= f.vote & 1, all &= f.vote & 1, count += f.vote & 1;
    }
  for (auto& f : fibers)
    if (f.state == AT_BARRIER) {
      int op = f.vote >> 1;
      f.vote = op == 0 ? any : op == 1 ? all : count;
      f.state = READY;
    }
  interval++;
}

// Run a collective if every lane of `mask` that still lives is there.
static void try_collective(int warp, unsigned mask) {
  unsigned here = 0;
  Fiber* first = nullptr;
  void* payloads[32];
  for (int l = 0; l < 32; l++) {
    if (!(mask >> l & 1)) continue;
    int i = warp * 32 + l;
    if (i >= (int)fibers.size() || fibers[i].state == DONE) continue;
    Fiber& f = fibers[i];
    if (f.state != AT_COLLECTIVE || f.mask != mask) return;
    if (first && (f.collective != first->collective || f.line != first->line))
      stop("DIVERGENT warp collective: lines " + std::to_string(first->line) + " and " + std::to_string(f.line), nullptr);
    first = &f;
    here |= 1u << l;
    payloads[l] = f.payload;
  }
  if (!first) return;
  first->collective(payloads, here);
  if (first->fences) warp_interval[warp]++;
  for (int l = 0; l < 32; l++)
    if (here >> l & 1) fibers[warp * 32 + l].state = READY;
}

static void fiber_main() {
  entry(arguments);
  if (!current->copies.empty()) report("UNFINISHED cp.async: no wait covers it", nullptr);
  current->state = DONE;
  alive--;
  int warp = current->index / 32;
  for (int i = warp * 32; i < warp * 32 + 32 && i < (int)fibers.size(); i++)
    if (fibers[i].state == AT_COLLECTIVE) try_collective(warp, fibers[i].mask);
  if (all_at_barrier()) release_barrier();
  yield();
  abort();
}

static void deadlock() {
  int barrier = 0, collective = 0, barrier_line = 0, collective_line = 0;
  for (auto& f : fibers) {
    if (f.state == AT_BARRIER) barrier++, barrier_line = f.line;
    if (f.state == AT_COLLECTIVE) collective++, collective_line = f.line;
  }
  stop("DEADLOCK: " + std::to_string(barrier) + " threads at __syncthreads (line " + std::to_string(barrier_line) + "), " +
           std::to_string(collective) + " at a warp collective (line " + std::to_string(collective_line) + ")",
       nullptr);
}

static void shuffle(std::vector<int>& order) {
  for (int i = (int)order.size() - 1; i > 0; i--) {
    std::swap(order[i], order[drawn() % (i + 1)]);
  }
}

static void run_block(std::vector<int>& order, bool random) {
  first_interval = ++interval;
  warp_interval.assign((fibers.size() + 31) / 32, 1);
  alive = (int)fibers.size();
  for (auto& r : regions)
    if (r.kind == SHARED) {  // garbage: NaN, and -1
      memset(r.low, 0xff, r.high - r.low);
      if (checking) r.shadow.assign(r.high - r.low, Shadow{});
    }
  for (int i = 0; i < (int)fibers.size(); i++) {
    Fiber& f = fibers[i];
    f = Fiber{};
    f.stack = stacks[i];
    f.index = i;
    f.thread = {i % block_size.x, i / block_size.x % block_size.y, i / (block_size.x * block_size.y)};
    prepare(f, fiber_main);
  }
  while (alive && !stopped) {
    bool ran = false;
    if (random) shuffle(order);
    for (int i : order) {
      if (fibers[i].state != READY) continue;
      ran = true;
      current = &fibers[i];
      emu_switch(&scheduler, current->sp);
      current = nullptr;
      if (stopped) break;
    }
    if (!ran && !stopped) deadlock();
  }
}

// --- what the shim calls ---

extern "C" {
dim3 emu_thread() { return current->thread; }
dim3 emu_block() { return block_index; }
dim3 emu_block_size() { return block_size; }
dim3 emu_grid_size() { return grid_size; }

void emu_fail(const char* what, int line) { stop(std::string(what) + " (line " + std::to_string(line) + ")", nullptr); }

int emu_barrier(int op, int vote, int line) {
  current->state = AT_BARRIER;
  current->line = line;
  current->vote = op << 1 | (vote != 0);
  if (all_at_barrier()) release_barrier();
  else yield();
  return current->vote;
}

void emu_collective(unsigned mask, Collective run, void* payload, bool fences, int line) {
  int lane = current->index & 31;
  if (!(mask >> lane & 1)) emu_fail("warp collective by a lane that its mask leaves out", line);
  current->state = AT_COLLECTIVE;
  current->line = line;
  current->mask = mask;
  current->collective = run;
  current->payload = payload;
  current->fences = fences;
  try_collective(current->index / 32, mask);
  if (current->state == AT_COLLECTIVE) yield();
}

void* emu_dynamic_shared(int align) {
  if ((uintptr_t)dynamic_shared % align) emu_fail("dynamic shared memory is not aligned as declared", 0);
  return dynamic_shared;
}

unsigned emu_shared_address(const void* p) {
  for (auto& r : regions)
    if (r.kind == SHARED && p >= r.low && p < r.high) return r.window + (unsigned)((const char*)p - r.low);
  stop("NOT SHARED: the address of something else was taken for shared memory", __builtin_return_address(0));
  return 0;
}

void* emu_shared_pointer(unsigned address) {
  for (auto& r : regions)
    if (r.kind == SHARED && address >= r.window && address - r.window < (unsigned)(r.high - r.low))
      return r.low + (address - r.window);
  stop("OUT OF BOUNDS address in shared memory", __builtin_return_address(0));
  return nullptr;
}

static void land(const Copy& c, const void* where) {
  if (c.filled) check_access(c.from, c.filled, READ, where);
  check_access(c.to, c.bytes, WRITE, where);
  memcpy(c.to, c.from, c.filled);
  memset(c.to + c.filled, 0, c.bytes - c.filled);
}
void emu_copy_start(unsigned to, const void* from, int bytes, int filled) {
  const void* where = __builtin_return_address(0);
  if (bytes != 4 && bytes != 8 && bytes != 16) stop("cp.async copies 4, 8 or 16 bytes", where);
  char* target = (char*)emu_shared_pointer(to);
  if ((uintptr_t)target % bytes || (uintptr_t)from % bytes) stop("MISALIGNED cp.async", where);
  Copy copy = {target, (const char*)from, bytes, filled, current->groups};
  if (random_landing && drawn() >> 32 & 1) land(copy, where);
  else current->copies.push_back(copy);
}
void emu_copy_commit() { current->groups++; }
void emu_copy_wait(int pending) {  // all groups but the newest `pending`
  auto& copies = current->copies;
  size_t kept = 0;
  for (auto& c : copies) {
    if (c.group >= current->groups - pending) {
      copies[kept++] = c;
      continue;
    }
    land(c, __builtin_return_address(0));
  }
  copies.resize(kept);
}

// --- what Python calls ---

void emu_reset() { regions.clear(); }
void emu_add_region(void* p, size_t n, int kind, const char* name, int shadowed) {
  unsigned window = 128;
  for (auto& r : regions)
    if (r.kind == SHARED) window = (unsigned)(r.window + (r.high - r.low) + 127) / 128 * 128;
  regions.push_back({(char*)p, (char*)p + n, kind, window, name, std::vector<Shadow>(shadowed ? n : 0)});
}
const char* emu_findings() { return findings.c_str(); }

// An address that is nobody's ends the launch, not the process; the checked build mostly finds it before.
static sigjmp_buf rescue;
static char rescue_stack[1 << 16];  // the fiber's own may be what is full
static void fault(int) { siglongjmp(rescue, 1); }

// order: 0 forward, 1 reverse, 2 drawn anew in every pass over the threads
int emu_launch(void (*kernel)(void**), void** args, const unsigned* grid, const unsigned* block, size_t shared, int order,
               uint64_t seed, int check) {
  entry = kernel, arguments = args;
  grid_size = {grid[0], grid[1], grid[2]}, block_size = {block[0], block[1], block[2]};
  findings.clear(), finding_count = 0, stopped = false, checking = check;
  random_state = seed * 2 + 1, random_landing = order == 2, interval = 1, current = nullptr;
  int n = (int)(block[0] * block[1] * block[2]);
  fibers.assign(n, Fiber{});
  while ((int)stacks.size() < n) {
    char* s = (char*)mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    mprotect(s, 4096, PROT_NONE);
    stacks.push_back(s);
  }
  size_t margin = 2048;
  char* raw = (char*)aligned_alloc(128, (shared + 2 * margin + 127) / 128 * 128);
  dynamic_shared = raw + margin, dynamic_bytes = shared;
  if (shared) emu_add_region(dynamic_shared, shared, SHARED, "dynamic shared", check);
  std::vector<int> sequence(n);
  for (int i = 0; i < n; i++) sequence[i] = order == 1 ? n - 1 - i : i;
  struct sigaction mine = {}, segv, bus;
  stack_t own = {rescue_stack, 0, sizeof rescue_stack}, old;
  mine.sa_handler = fault, mine.sa_flags = SA_ONSTACK;
  sigaltstack(&own, &old), sigaction(SIGSEGV, &mine, &segv), sigaction(SIGBUS, &mine, &bus);
  if (sigsetjmp(rescue, 1)) {
    report("MEMORY FAULT at an address that is nobody's", nullptr);
  } else {
    for (unsigned z = 0; z < grid[2] && !stopped; z++)
      for (unsigned y = 0; y < grid[1] && !stopped; y++)
        for (unsigned x = 0; x < grid[0] && !stopped; x++) {
          block_index = {x, y, z};
          run_block(sequence, order == 2);
        }
  }
  sigaction(SIGSEGV, &segv, nullptr), sigaction(SIGBUS, &bus, nullptr), sigaltstack(&old, nullptr);
  if (shared) regions.pop_back();
  free(raw);
  return finding_count;
}
}
