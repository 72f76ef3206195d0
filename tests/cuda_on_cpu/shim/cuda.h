// CUDA C++ as g++ sees it: included before the unmodified source of a kernel. The names of CUDA that our kernels use,
// with the meaning that the CUDA C++ Programming Guide and the PTX ISA give them; the threads are runtime/fibers.cpp.
#pragma once
#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <type_traits>
#include <utility>
#include "model.h"
#include "warp.h"
#include "atomics.h"
#include "numbers.h"
#include "half.h"
#include "ptx.h"
#include "entry.h"
