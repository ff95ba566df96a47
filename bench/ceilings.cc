// What this machine can do right now: DRAM read rate and multiply-add peaks, as one JSON line.
//
// g++ -O3 -std=c++20 -pthread ceilings.cc -o ceilings && ./ceilings [threads]
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include <sys/mman.h>

namespace {

double now() {
  using namespace std::chrono;
  return duration<double>(steady_clock::now().time_since_epoch()).count();
}

// Best of several runs of fn(thread) on all threads together, seconds.
template <class Fn>
double best_seconds(int threads, int runs, Fn fn) {
  double best = 1e9;
  for (int r = 0; r < runs; ++r) {
    std::atomic<int> ready{0};
    std::vector<double> took(threads);
    std::vector<std::thread> all;
    for (int t = 0; t < threads; ++t)
      all.emplace_back([&, t] {
        ++ready;
        while (ready < threads) {
        }
        const double start = now();
        fn(t);
        took[t] = now() - start;
      });
    for (auto& t : all) t.join();
    best = std::min(best, *std::max_element(took.begin(), took.end()));
  }
  return best;
}

volatile uint64_t sink;

double dram_gb_per_s(int threads) {
  constexpr size_t kBytes = size_t{512} << 20;
  auto* data = static_cast<uint64_t*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  madvise(data, kBytes, MADV_HUGEPAGE);
  for (size_t i = 0; i < kBytes / 8; i += 8) data[i] = i;
  const size_t share = kBytes / 8 / threads;
  const double s = best_seconds(threads, 5, [&](int t) {
    uint64_t sum[32] = {};
    for (size_t i = t * share; i + 32 <= (t + 1) * share; i += 32)
      for (int j = 0; j < 32; ++j) sum[j] += data[i + j];
    for (const uint64_t v : sum) sink = sink + v;
  });
  munmap(data, kBytes);
  return static_cast<double>(kBytes) / s / 1e9;
}

#if defined(__x86_64__)
constexpr int kLoops = 4'000'000, kChains = 16;

// Sixteen independent chains in named registers: enough to hide the latency of four to six cycles.
#define ARGOSY_PEAK(name, features, instruction, bits)                                            \
  __attribute__((target(features))) void name(int) {                                              \
    const __m512i a = _mm512_set1_epi32(bits), b = a;                                             \
    for (int i = 0; i < kLoops; ++i)                                                              \
      __asm__ volatile(                                                                           \
          instruction " %0,%1,%%zmm16\n" instruction " %0,%1,%%zmm17\n" instruction               \
          " %0,%1,%%zmm18\n" instruction " %0,%1,%%zmm19\n" instruction " %0,%1,%%zmm20\n"         \
          instruction " %0,%1,%%zmm21\n" instruction " %0,%1,%%zmm22\n" instruction               \
          " %0,%1,%%zmm23\n" instruction " %0,%1,%%zmm24\n" instruction " %0,%1,%%zmm25\n"         \
          instruction " %0,%1,%%zmm26\n" instruction " %0,%1,%%zmm27\n" instruction               \
          " %0,%1,%%zmm28\n" instruction " %0,%1,%%zmm29\n" instruction " %0,%1,%%zmm30\n"         \
          instruction " %0,%1,%%zmm31"                                                            \
          :                                                                                       \
          : "v"(a), "v"(b)                                                                        \
          : "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24",      \
            "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31");                       \
  }
ARGOSY_PEAK(vnni, "avx512f,avx512vnni", "vpdpbusd", 0x01010101)
ARGOSY_PEAK(bf16, "avx512f,avx512bf16", "vdpbf16ps", 0x3f803f80)

double tera_ops(int threads, void (*fn)(int), int ops_per_instruction) {
  const double s = best_seconds(threads, 3, fn);
  return static_cast<double>(threads) * kLoops * kChains * ops_per_instruction / s / 1e12;
}
#endif

}  // namespace

int main(int argc, char** argv) {
  const int threads =
      argc > 1 ? std::atoi(argv[1]) : static_cast<int>(std::thread::hardware_concurrency());
  std::printf("{\"threads\": %d, \"dram_gb_s\": %.1f", threads, dram_gb_per_s(threads));
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vnni"))
    std::printf(", \"vnni_top_s\": %.3f", tera_ops(threads, vnni, 128));
  if (__builtin_cpu_supports("avx512bf16"))
    std::printf(", \"bf16_tflop_s\": %.3f", tera_ops(threads, bf16, 64));
#endif
  std::printf("}\n");
}
