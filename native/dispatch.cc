#include "dispatch.h"

#include <stdexcept>

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace argosy {
namespace {

struct Variant {
  const Kernels* (*kernels)();
  bool (*runs_here)();
};

#if defined(__x86_64__)
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}
bool has_vnni() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni");
}
bool has_bf16() { return has_vnni() && __builtin_cpu_supports("avx512bf16"); }
#elif defined(__aarch64__) && defined(__linux__)
bool has_dotprod() { return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0; }
#elif defined(__aarch64__)
bool has_dotprod() { return true; }  // every Arm Mac has it
#endif
bool always() { return true; }

constexpr Variant kVariants[] = {
#if defined(__x86_64__)
    {kernels_avx512bf16, has_bf16},
    {kernels_avx512vnni, has_vnni},
    {kernels_avx2, has_avx2},
#elif defined(__aarch64__)
    {kernels_dotprod, has_dotprod},
    {kernels_neon, always},
#elif defined(__wasm_simd128__)
    {kernels_simd128, always},
#endif
    {kernels_portable, always},
};

}  // namespace

std::vector<std::string> variants() {
  std::vector<std::string> names;
  for (const Variant& v : kVariants)
    if (v.runs_here()) names.emplace_back(v.kernels()->name);
  return names;
}

const Kernels* choose_kernels(const std::string& name) {
  for (const Variant& v : kVariants)
    if (v.runs_here() && (name.empty() || name == v.kernels()->name)) return v.kernels();
  throw std::invalid_argument("no kernels named '" + name + "' run on this processor");
}

}  // namespace argosy
