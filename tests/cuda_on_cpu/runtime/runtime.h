// What fibers.cpp and checker.cpp share: the threads of one block, and the memory that they may touch.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

struct dim3 {
  unsigned x, y, z;
};

enum State { READY, AT_BARRIER, AT_COLLECTIVE, DONE };
using Collective = void (*)(void** payloads, unsigned lanes);

// A copy that cp.async started: it becomes visible at the wait that covers its group.
struct Copy {
  char* to;
  const char* from;
  int bytes, filled, group;
};

struct Fiber {
  void* sp;     // saved stack pointer while another thread runs
  char* stack;  // lowest address
  int state, index;
  dim3 thread;
  int line;               // of the barrier or the collective it waits at
  int vote;               // operand of a barrier that reduces, then its result
  unsigned mask;          // lanes that a collective names
  Collective collective;
  void* payload;
  bool fences;            // whether the collective orders memory
  int groups;             // of cp.async, committed so far
  std::vector<Copy> copies;
};

// Per byte: who wrote and who read it last, in which barrier interval of the block and of the warp.
struct Shadow {
  uint32_t write_interval, write_warp_interval, read_interval, read_warp_interval;
  int32_t writer, reader;
  uint8_t written, readers, atomic;  // readers: 0 one thread, 1 several of one warp, 2 of several warps
};

enum Kind { GLOBAL = 0, SHARED = 1, CONSTANT = 2 };
enum Access { READ = 0, WRITE = 1, ATOMIC = 2 };

struct Region {
  char *low, *high;
  int kind;
  unsigned window;  // address in the shared window, as __cvta_generic_to_shared gives it
  std::string name;
  std::vector<Shadow> shadow;  // empty in the fast build
};

static const size_t STACK = 128 << 10;

extern std::vector<Region> regions;
extern std::vector<uint32_t> warp_interval;
extern uint32_t interval, first_interval;  // of the block that runs: now, and when it began
extern Fiber* current;
extern bool checking, stopped;

void report(const std::string& what, const void* where);           // note a finding and go on
void stop(const std::string& what, const void* where);             // note it and end the launch
void check_access(const char* p, int n, int access, const void* where);
