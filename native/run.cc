// One step of a program: the instructions, in order, on all threads.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "program.h"

namespace argosy {
namespace {

// Says that the step gets on, to whoever reads the cell meanwhile, in another process perhaps.
// One writer, so no locked addition. (Not every standard library has std::atomic_ref yet.)
void beat(uint64_t* cell) {
  __atomic_store_n(cell, __atomic_load_n(cell, __ATOMIC_RELAXED) + 1, __ATOMIC_RELAXED);
}

// A phase of the step, as one thread sees it.
struct Place {
  size_t phase;
  int thread;
};

}  // namespace

void Program::copy_pages(const Step& s) {
  for (size_t g = 0; g < groups_.size(); ++g)
    for (size_t c = 0; c + 1 < s.copies[g].size(); c += 2)
      for (int l = 0; l < groups_[g].layers; ++l) {
        const Cache cache = groups_[g].layer(l);
        std::memmove(cache.base + s.copies[g][c + 1] * cache.page_bytes,
                     cache.base + s.copies[g][c] * cache.page_bytes, cache.page_bytes);
        beat(heartbeat_);
      }
}

struct Program::Run {
  Program& p;
  Step& s;
  const int rows;
  uint64_t* const heartbeat;
  std::vector<AttentionUnit> units;
  std::vector<std::atomic<int>> counters;  // one per phase, so that none needs resetting

  Run(Program& program, Step& step)
      : p(program),
        s(step),
        rows(static_cast<int>(step.tokens.size())),
        heartbeat(program.heartbeat_),
        counters(program.instructions_.size() + 2 +
                 3 * ((step.head_rows.size() + kHeadTile - 1) / kHeadTile)) {
    for (int b = 0; b < static_cast<int>(s.lengths.size()); ++b)
      for (int r = s.row_starts[b]; r < s.row_starts[b + 1]; r += kTileRows)
        units.push_back({b, r, std::min(kTileRows, s.row_starts[b + 1] - r)});
  }

  // Hands units [0, count) out in runs of `grain`; which thread gets which changes no result.
  template <class Fn>
  void share(Place at, int count, int grain, Fn fn) {
    std::atomic<int>& next = counters[at.phase];
    for (int i; (i = next.fetch_add(grain, std::memory_order_relaxed)) < count;) {
      if (at.thread == 0) beat(heartbeat);
      for (int j = i; j < std::min(count, i + grain); ++j) fn(j);
    }
    if (at.thread == 0) beat(heartbeat);  // others may have taken them all
  }
  // Few rows stream weights from memory: one stream a thread. More compute: inputs serve two
  // blocks.
  static int unit_blocks(int rows) { return rows < kPairRows ? 1 : 2; }
  // Units taken at once: many where each is short, so that taking them costs little; few where each
  // takes long, so that no thread is left waiting for another's last ones.
  int grain(int count, int unit_rows = 1) const {
    return std::max(1, count / (8 * p.pool_.threads() * std::max(1, unit_rows / 16)));
  }

  const float* vector(int i) const { return i < 0 ? nullptr : p.vectors_[i].data(); }

  void prepare_row(int inputs, int x, int row) const {
    const InputBuffer& in = p.inputs_[inputs];
    const Buffer& b = p.buffers_[x];
    const PrepareArgs a{b.data(), static_cast<size_t>(b.stride), nullptr, in.format, in.k, in.k_pad,
                        in.view()};
    p.kernels_->prepare(a, row);
  }

  void run(Place at, const Embed& e) {
    const Buffer& out = p.buffers_[e.out];
    share(at, rows, 1, [&](int r) {
      float* row = out.data() + static_cast<size_t>(r) * out.stride;
      p.kernels_->embed(p.matrices_[e.matrix], s.tokens[r], row);
      std::fill(row + out.width, row + out.stride, 0.0f);  // residuals add 0 * x there
      for (Rotation& t : p.rotations_) {
        const int half = static_cast<int>(t.inv_freq.size());
        p.kernels_->rotations(t.inv_freq.data(), half, t.scale, s.positions[r],
                              t.cosine.data() + static_cast<size_t>(r) * half,
                              t.sine.data() + static_cast<size_t>(r) * half);
      }
    });
  }

  void run(Place at, const Norm& n) {
    const Buffer &x = p.buffers_[n.x], &out = p.buffers_[n.out];
    const NormArgs a{x.data(),
                     static_cast<size_t>(x.stride),
                     out.data(),
                     static_cast<size_t>(out.stride),
                     vector(n.weight),
                     x.width,
                     n.eps};
    share(at, rows, grain(rows), [&](int r) {
      p.kernels_->norm(a, r);
      for (const int i : n.inputs) prepare_row(i, n.out, r);
    });
  }

  void run(Place at, const Prepare& i) {
    if (i.fused && rows >= kFuseRows) return;
    share(at, rows, grain(rows), [&](int r) { prepare_row(i.inputs, i.x, r); });
  }

  void run(Place at, const Linear& l) {
    const Buffer& out = p.buffers_[l.out];
    LinearArgs a{p.matrices_[l.matrix],
                 p.inputs_[l.inputs].view(),
                 rows,
                 vector(l.bias),
                 out.data(),
                 static_cast<size_t>(out.stride),
                 l.residual,
                 l.gated,
                 l.gated ? 2 : unit_blocks(rows)};
    if (l.into >= 0 && rows >= kFuseRows) {
      const InputBuffer& into = p.inputs_[l.into];
      a.into = into.view(), a.into_format = into.format, a.into_k = into.k_pad;
      a.unit_blocks = 2 * kInputGroup / kColumns;
    }
    const int units = (a.w.blocks + a.unit_blocks - 1) / a.unit_blocks;
    share(at, units, grain(units, rows), [&](int u) { p.kernels_->linear(a, u); });
  }

  void run(Place at, const Qkv& q) {
    const Buffer &x = p.buffers_[q.qkv], &out = p.buffers_[q.out];
    const Rotation& t = p.rotations_[q.rotation];
    const QkvArgs a{x.data(),
                    static_cast<size_t>(x.stride),
                    q.k_at,
                    q.v_at,
                    vector(q.q_norm),
                    vector(q.k_norm),
                    q.eps,
                    t.cosine.data(),
                    t.sine.data(),
                    static_cast<int>(t.inv_freq.size()),
                    s.slots[q.group].data(),
                    out.data(),
                    static_cast<size_t>(out.stride),
                    q.heads,
                    p.groups_[q.group].layer(q.layer),
                    s.row_nonfinite.data()};
    const int heads = q.heads + a.cache.kv_heads;
    share(at, rows * heads, grain(rows * heads),
          [&](int i) { p.kernels_->qkv(a, i / heads, i % heads); });
  }

  void run(Place at, const Attention& t) {
    const Buffer &q = p.buffers_[t.q], &out = p.buffers_[t.out];
    AttentionArgs a{q.data(),
                    out.data(),
                    static_cast<size_t>(q.stride),
                    static_cast<size_t>(out.stride),
                    t.heads,
                    t.scale,
                    t.window,
                    s.positions.data(),
                    nullptr,
                    p.groups_[t.group].layer(t.layer)};
    const std::span<const int32_t> tables = s.page_tables[t.group];
    const size_t width = tables.size() / s.lengths.size();
    const int heads = a.cache.kv_heads;
    share(at, static_cast<int>(units.size()) * heads, 1, [&](int i) {
      const AttentionUnit& u = units[i / heads];
      AttentionArgs mine = a;
      mine.page_table = tables.data() + u.sequence * width;
      p.kernels_->attention(mine, u.row, u.rows, i % heads);
    });
  }

  // Logits of head rows [first, first + count), then their draws.
  void head_tile(Place& at, int first, int count) {
    const HeadOp& h = p.head_;
    const Buffer& x = p.buffers_[h.x];
    const InputBuffer& in = p.inputs_[h.inputs];
    const PrepareArgs prepare{x.data(),
                              static_cast<size_t>(x.stride),
                              s.head_rows.data() + first,
                              in.format,
                              in.k,
                              in.k_pad,
                              in.view()};
    const size_t body = p.instructions_.size();
    phase(at, body, [&](Place here) {
      share(here, count, 1, [&](int r) { p.kernels_->prepare(prepare, r); });
    });
    const Matrix& w = p.matrices_[h.matrix];
    auto* logits = reinterpret_cast<float*>(p.logits_.data());
    const size_t stride = static_cast<size_t>(w.blocks) * kColumns;
    const LinearArgs linear{w,      in.view(), count, vector(h.bias),    logits,
                            stride, false,     false, unit_blocks(count)};
    const int units = (w.blocks + linear.unit_blocks - 1) / linear.unit_blocks;
    phase(at, body + 1, [&](Place here) {
      share(here, units, grain(units, count), [&](int u) { p.kernels_->linear(linear, u); });
    });
    const size_t part = p.scratch_.size() / static_cast<size_t>(p.pool_.threads());
    uint8_t* scratch = p.scratch_.data() + part * static_cast<size_t>(at.thread);
    phase(at, body + 2, [&](Place here) {
      share(here, count, 1, [&](int r) {
        sample_head_row(*p.kernels_, s, static_cast<size_t>(first + r), p.head_.vocabulary,
                        logits + static_cast<size_t>(r) * stride, scratch);
      });
    });
  }

  // A phase, and the wait for the other threads; its time goes to `spent` where that is wanted.
  template <class Fn>
  void phase(Place& at, size_t spent, Fn fn) {
    using Clock = std::chrono::steady_clock;
    const bool timed = at.thread == 0 && !p.times_.empty();
    const auto start = timed ? Clock::now() : Clock::time_point{};
    fn(at);
    const auto done = timed ? Clock::now() : Clock::time_point{};
    p.pool_.barrier();
    ++at.phase;
    if (!timed) return;
    p.times_[spent].work += std::chrono::duration<double>(done - start).count();
    p.times_[spent].wait += std::chrono::duration<double>(Clock::now() - done).count();
  }

  void all(int thread) {
    Place at{0, thread};
    for (size_t i = 0; i < p.instructions_.size(); ++i)
      phase(at, i, [&](Place here) {
        std::visit([&](const auto& op) { run(here, op); }, p.instructions_[i]);
      });
    const int heads = static_cast<int>(s.head_rows.size());
    for (int first = 0; first < heads; first += kHeadTile)
      head_tile(at, first, std::min(kHeadTile, heads - first));
  }
};

void Program::step(Step& s) {
  // Before the lock: a child of fork may have inherited it held, by a thread that it lacks.
  if (getpid() != process_)
    refuse("this engine belongs to another process; make a new one after a fork");
  const std::lock_guard<std::mutex> one_at_a_time(mutex_);
  check(s);
  check_head(s, s.tokens.size(), head_.vocabulary);
  if (s.tokens.empty()) return;
  reserve(static_cast<int>(s.tokens.size()), static_cast<int>(s.head_rows.size()));
  copy_pages(s);
  Run run(*this, s);
  pool_.run([](void* r, int thread) { static_cast<Run*>(r)->all(thread); }, &run);
}

}  // namespace argosy
