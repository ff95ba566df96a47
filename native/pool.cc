#include "pool.h"

#include <stdexcept>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace argosy {
namespace {

// 24 us measured on Zen 5: longer than most phase imbalances, shorter than a time slice. What is
// published before notify_all is stored sequentially consistent: it looks for sleepers afterwards,
// and a weaker store might still be on its way when a thread goes to sleep.
constexpr int kSpins = 1000;

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

void wait_while(const std::atomic<uint32_t>& value, uint32_t old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause();
  }
  while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

// The floating-point control word of the numeric contract, put back when done.
class Arithmetic {
 public:
#if defined(__x86_64__)
  Arithmetic() : saved_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
  ~Arithmetic() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  Arithmetic() {
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved_));
    __asm__ volatile("msr fpcr, %0" ::"r"(uint64_t{0}));
  }
  ~Arithmetic() { __asm__ volatile("msr fpcr, %0" ::"r"(saved_)); }

 private:
  uint64_t saved_;
#endif
};

}  // namespace

Pool::Pool(int threads) : threads_(threads) {
  if (threads < 1) throw std::invalid_argument("a pool needs at least one thread");
  try {
    for (int i = 1; i < threads; ++i) workers_.emplace_back(&Pool::work, this, i);
  } catch (...) {  // the system gives no more threads: those there are must end first
    stop();
    throw;
  }
}

Pool::~Pool() { stop(); }

void Pool::stop() {
  stopping_.store(true, std::memory_order_relaxed);
  epoch_.fetch_add(1);
  epoch_.notify_all();
  for (std::thread& t : workers_) t.join();
}

void Pool::run(void (*fn)(void*, int), void* context) {
  fn_ = fn;
  context_ = context;
  epoch_.fetch_add(1);
  epoch_.notify_all();
  {
    const Arithmetic arithmetic;
    fn(context, 0);
  }
  barrier();
}

void Pool::work(int thread) {
  for (uint32_t seen = 0;; ++seen) {
    wait_while(epoch_, seen);
    if (stopping_.load(std::memory_order_relaxed)) return;
    const Arithmetic arithmetic;
    fn_(context_, thread);
    barrier();
  }
}

void Pool::barrier() {
  const uint32_t phase = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == threads_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1);
    phase_.notify_all();
  } else {
    wait_while(phase_, phase);
  }
}

}  // namespace argosy
