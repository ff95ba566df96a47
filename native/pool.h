// Threads that walk a program together: the caller is thread 0; waits spin briefly, then sleep.
#pragma once
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace argosy {

class Pool {
 public:
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return threads_; }

  // Calls fn(context, thread) on every thread, 0 on the caller's, and returns when all are done.
  // Each thread computes with round-to-nearest and denormals kept, whatever the caller has set.
  void run(void (*fn)(void* context, int thread), void* context);

  // Within run: waits until every thread has come here.
  void barrier();

 private:
  void work(int thread);
  void stop();

  const int threads_;
  void (*fn_)(void*, int) = nullptr;
  void* context_ = nullptr;
  alignas(64) std::atomic<uint32_t> epoch_{0};  // raised to start a run, and to stop
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> workers_;
};

}  // namespace argosy
