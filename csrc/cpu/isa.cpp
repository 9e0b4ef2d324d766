#include "cpu/isa.h"

#include <atomic>

#include "ops.h"

namespace avatar {

Isa best_isa() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi2"))
    return AVX512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return AVX2;
#endif
  return SCALAR;
}

namespace {
std::atomic<int>& chosen() {
  static std::atomic<int> isa{best_isa()};
  return isa;
}
}  // namespace

Isa current_isa() { return static_cast<Isa>(chosen().load(std::memory_order_relaxed)); }

int64_t isa_get() { return current_isa(); }

// Returns what was in force before. Asking for more than the processor has is an error.
int64_t isa_set(int64_t isa) {
  if (isa < SCALAR || isa > best_isa())
    throw std::runtime_error("set_isa: this processor runs levels 0.." + std::to_string(best_isa()) +
                             " (scalar, AVX2, AVX-512), got " + std::to_string(isa));
  return chosen().exchange(static_cast<int>(isa));
}

STABLE_TORCH_LIBRARY_IMPL(avatar, CompositeExplicitAutograd, m) {
  m.impl("get_isa", TORCH_BOX(&isa_get));
  m.impl("set_isa", TORCH_BOX(&isa_set));
}

}  // namespace avatar
