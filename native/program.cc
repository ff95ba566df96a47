#include "program.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <new>
#include <stdexcept>
#include <utility>

#include "dispatch.h"

namespace argosy {
namespace {

int round_up(int x, int multiple) { return (x + multiple - 1) / multiple * multiple; }

int cell_k(Kind kind) {
  switch (kind) {
    case Kind::kFp32:
      return 1;
    case Kind::kFp16:
    case Kind::kBf16:
      return 2;
    case Kind::kW8:
      return 4;
    case Kind::kW4:
      return 8;
  }
  return 1;
}

bool quantized(Format f) { return f.kind == Kind::kW8 || f.kind == Kind::kW4; }

int pad_k(Format f, int k) { return round_up(k, quantized(f) ? f.group : cell_k(f.kind)); }

size_t block_bytes(Format f, int k) {
  const size_t padded = static_cast<size_t>(pad_k(f, k));
  const size_t cells = padded / cell_k(f.kind) * kCellBytes;
  if (!quantized(f)) return cells;
  const size_t groups = padded / f.group;
  return cells + kCellBytes * (f.asymmetric ? groups : (groups + 1) / 2);
}

}  // namespace

// ---- memory -------------------------------------------------------------------------------------

Memory::Memory(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  data_ = static_cast<uint8_t*>(p);
}
Memory::Memory(Memory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
Memory& Memory::operator=(Memory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}
Memory::~Memory() {
  if (data_) munmap(data_, bytes_);
}

// ---- building -----------------------------------------------------------------------------------

Program::Program(int threads, const std::string& isa)
    : pool_(threads), kernels_(choose_kernels(isa)), process_(getpid()) {}
Program::~Program() = default;

int Program::add_matrix(const uint8_t* data, size_t bytes, Format format, int k, int blocks) {
  if (k < 1 || blocks < 1) refuse("a matrix needs at least one row and one block");
  const size_t per_block = block_bytes(format, k);
  check_size(bytes, per_block * static_cast<size_t>(blocks), "matrix data");
  matrices_.push_back({data, format, k, pad_k(format, k), blocks, per_block});
  return static_cast<int>(matrices_.size()) - 1;
}

int Program::add_vector(const float* data, int size) {
  vectors_.emplace_back(data, static_cast<size_t>(size));
  return static_cast<int>(vectors_.size()) - 1;
}

int Program::add_buffer(int width) {
  buffers_.push_back({width, round_up(width, kWidthPad), {}});
  return static_cast<int>(buffers_.size()) - 1;
}

int Program::add_inputs(int k, Format format) {
  const int padded = pad_k(format, k);
  inputs_.push_back(
      {format, k, padded, quantized(format) ? padded / format.group : 0, {}, {}, {}, {}});
  return static_cast<int>(inputs_.size()) - 1;
}

int Program::add_rotation(std::span<const float> inv_freq, float scale) {
  rotations_.push_back({{inv_freq.begin(), inv_freq.end()}, scale, {}, {}});
  return static_cast<int>(rotations_.size()) - 1;
}

int Program::add_cache_group(int layers, int kv_heads, int head_dim, CacheKind kind, int pages) {
  if (head_dim < 1 || head_dim > kMaxHeadDim || kv_heads < 1 || layers < 1 || pages < 1)
    refuse("a cache group needs a head_dim from 1 to " + std::to_string(kMaxHeadDim) +
           ", and at least one head, layer and page");
  const size_t element = kind == CacheKind::kFp32 ? 4 : 2;
  Cache c{};
  c.kind = kind;
  c.head_dim = head_dim;
  c.kv_heads = kv_heads;
  c.value_offset = static_cast<size_t>(round_up(head_dim, 4)) * kPageTokens * element;
  c.record_bytes =
      c.value_offset + static_cast<size_t>(round_up(head_dim, kColumns)) * kPageTokens * element;
  c.page_bytes = c.record_bytes * static_cast<size_t>(kv_heads);
  Memory memory(c.page_bytes * static_cast<size_t>(pages) * static_cast<size_t>(layers));
  c.base = memory.data();
  groups_.push_back({c, layers, pages, std::move(memory)});
  return static_cast<int>(groups_.size()) - 1;
}

void Program::set_head(int x, int inputs, int matrix, int bias, int vocabulary) {
  head_ = {x, inputs, matrix, bias, vocabulary};
  const size_t part = kernels_->sample_scratch_bytes(vocabulary);
  scratch_ = Memory(((part + 63) / 64 * 64) * static_cast<size_t>(pool_.threads()));
}

Inputs Program::InputBuffer::view() const {
  Inputs in{};
  in.values = values.data();
  in.value_stride = static_cast<size_t>(format.kind == Kind::kBf16 ? 2 * k_pad
                                        : quantized(format)        ? round_up(k_pad, 64)
                                                                   : 4 * k_pad);
  in.scales = reinterpret_cast<float*>(scales.data());
  in.starts = reinterpret_cast<int32_t*>(starts.data());
  in.sums = reinterpret_cast<float*>(sums.data());
  in.group_stride = static_cast<size_t>(groups);
  return in;
}

Cache Program::CacheGroup::layer(int i) const {
  Cache c = shape;
  c.base += static_cast<size_t>(i) * static_cast<size_t>(pages) * c.page_bytes;
  return c;
}

void Program::reserve(int rows, int head_rows) {
  const int wanted = std::max(rows, std::min(head_rows, kHeadTile));
  if (wanted > capacity_) {
    const size_t n = static_cast<size_t>(std::max(wanted, 2 * capacity_));
    for (Buffer& b : buffers_) b.memory = Memory(n * static_cast<size_t>(b.stride) * 4);
    for (InputBuffer& i : inputs_) {
      i.values = Memory(n * i.view().value_stride);
      for (Memory* m : {&i.scales, &i.starts, &i.sums})
        *m = Memory(n * static_cast<size_t>(i.groups) * 4);
    }
    for (Rotation& r : rotations_) {
      r.cosine.resize(n * r.inv_freq.size());
      r.sine.resize(n * r.inv_freq.size());
    }
    capacity_ = static_cast<int>(n);
  }
  const size_t row = static_cast<size_t>(matrices_[head_.matrix].blocks) * kColumns * 4;
  const size_t logits = row * static_cast<size_t>(std::min(head_rows, kHeadTile));
  if (logits > logits_.size()) logits_ = Memory(logits);
}

// ---- checks -------------------------------------------------------------------------------------

void Program::check(const Step& s) const {
  if (getpid() != process_)
    refuse("this engine belongs to another process; make a new one after a fork");
  const size_t rows = s.tokens.size(), sequences = s.lengths.size();
  check_size(s.positions.size(), rows, "positions");
  check_size(s.row_starts.size(), sequences + 1, "row_starts");
  check_size(s.row_nonfinite.size(), rows, "row flags");
  check_size(s.slots.size(), groups_.size(), "slots");
  check_size(s.page_tables.size(), groups_.size(), "page tables");
  check_size(s.copies.size(), groups_.size(), "page copies");
  check_range(s.tokens, head_.vocabulary, "token");
  check_range(s.positions, 1 << 30, "position");
  if (s.row_starts[0] != 0 || s.row_starts[sequences] != static_cast<int32_t>(rows))
    refuse("row_starts must run from 0 to the number of rows");
  for (size_t b = 0; b < sequences; ++b)
    if (s.row_starts[b] > s.row_starts[b + 1]) refuse("row_starts must not fall");
  for (size_t g = 0; g < groups_.size(); ++g) {
    check_size(s.slots[g].size(), rows, "slots");
    check_range(s.slots[g], static_cast<int64_t>(groups_[g].pages) * kPageTokens, "slot");
    check_range(s.page_tables[g], groups_[g].pages, "page");
    check_range(s.copies[g], groups_[g].pages, "page to copy");
    const size_t table = sequences ? s.page_tables[g].size() / sequences : 0;
    for (size_t b = 0; b < sequences; ++b)
      for (int r = s.row_starts[b]; r < s.row_starts[b + 1]; ++r)
        if (static_cast<size_t>(s.positions[r] / kPageTokens) >= table)
          refuse("position " + std::to_string(s.positions[r]) + " lies outside its page table");
  }
}

// ---- one step -----------------------------------------------------------------------------------

void Program::copy_pages(const Step& s) {
  for (size_t g = 0; g < groups_.size(); ++g)
    for (size_t c = 0; c + 1 < s.copies[g].size(); c += 2)
      for (int l = 0; l < groups_[g].layers; ++l) {
        const Cache cache = groups_[g].layer(l);
        std::memcpy(cache.base + s.copies[g][c + 1] * cache.page_bytes,
                    cache.base + s.copies[g][c] * cache.page_bytes, cache.page_bytes);
      }
}

struct Program::Run {
  Program& p;
  Step& s;
  const int rows;
  std::vector<AttentionUnit> units;
  std::vector<std::atomic<int>> counters;  // one per phase, so that none needs resetting

  Run(Program& program, Step& step)
      : p(program),
        s(step),
        rows(static_cast<int>(step.tokens.size())),
        counters(program.instructions_.size() + 2 +
                 3 * ((step.head_rows.size() + kHeadTile - 1) / kHeadTile)) {
    for (int b = 0; b < static_cast<int>(s.lengths.size()); ++b)
      for (int r = s.row_starts[b]; r < s.row_starts[b + 1]; r += kTileRows)
        units.push_back({b, r, std::min(kTileRows, s.row_starts[b + 1] - r)});
  }

  // Hands units [0, count) out in runs of `grain`; which thread gets which changes no result.
  template <class Fn>
  void share(size_t phase, int count, int grain, Fn fn) {
    std::atomic<int>& next = counters[phase];
    for (int i; (i = next.fetch_add(grain, std::memory_order_relaxed)) < count;)
      for (int j = i; j < std::min(count, i + grain); ++j) fn(j);
  }
  int grain(int count) const { return std::max(1, count / (8 * p.pool_.threads())); }

  const float* vector(int i) const { return i < 0 ? nullptr : p.vectors_[i].data(); }

  void prepare_row(int inputs, int x, int row) const {
    const InputBuffer& in = p.inputs_[inputs];
    const Buffer& b = p.buffers_[x];
    const PrepareArgs a{b.data(), static_cast<size_t>(b.stride), nullptr, in.format, in.k, in.k_pad,
                        in.view()};
    p.kernels_->prepare(a, row);
  }

  void run(size_t phase, const Embed& e) {
    const Buffer& out = p.buffers_[e.out];
    share(phase, rows, 1, [&](int r) {
      p.kernels_->embed(p.matrices_[e.matrix], s.tokens[r],
                        out.data() + static_cast<size_t>(r) * out.stride);
      for (Rotation& t : p.rotations_) {
        const int half = static_cast<int>(t.inv_freq.size());
        p.kernels_->rotations(t.inv_freq.data(), half, t.scale, s.positions[r],
                              t.cosine.data() + static_cast<size_t>(r) * half,
                              t.sine.data() + static_cast<size_t>(r) * half);
      }
    });
  }

  void run(size_t phase, const Norm& n) {
    const Buffer &x = p.buffers_[n.x], &out = p.buffers_[n.out];
    const NormArgs a{x.data(),
                     static_cast<size_t>(x.stride),
                     out.data(),
                     static_cast<size_t>(out.stride),
                     vector(n.weight),
                     x.width,
                     n.eps};
    share(phase, rows, 1, [&](int r) {
      p.kernels_->norm(a, r);
      for (const int i : n.inputs) prepare_row(i, n.out, r);
    });
  }

  void run(size_t phase, const Prepare& i) {
    share(phase, rows, 1, [&](int r) { prepare_row(i.inputs, i.x, r); });
  }

  void run(size_t phase, const Linear& l) {
    const Buffer& out = p.buffers_[l.out];
    const LinearArgs a{p.matrices_[l.matrix],
                       p.inputs_[l.inputs].view(),
                       rows,
                       vector(l.bias),
                       out.data(),
                       static_cast<size_t>(out.stride),
                       l.residual,
                       l.gated};
    const int units = l.gated ? a.w.blocks / 2 : a.w.blocks;
    share(phase, units, grain(units), [&](int u) { p.kernels_->linear(a, u); });
  }

  void run(size_t phase, const Qkv& q) {
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
    share(phase, rows * heads, grain(rows * heads),
          [&](int i) { p.kernels_->qkv(a, i / heads, i % heads); });
  }

  void run(size_t phase, const Attention& t) {
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
    share(phase, static_cast<int>(units.size()) * heads, 1, [&](int i) {
      const AttentionUnit& u = units[i / heads];
      AttentionArgs mine = a;
      mine.page_table = tables.data() + u.sequence * width;
      p.kernels_->attention(mine, u.row, u.rows, i % heads);
    });
  }

  // Logits of head rows [first, first + count), then their draws.
  void head_tile(size_t phase, int first, int count, int thread) {
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
    share(phase, count, 1, [&](int r) { p.kernels_->prepare(prepare, r); });
    p.pool_.barrier();
    const Matrix& w = p.matrices_[h.matrix];
    auto* logits = reinterpret_cast<float*>(p.logits_.data());
    const size_t stride = static_cast<size_t>(w.blocks) * kColumns;
    const LinearArgs linear{w, in.view(), count, vector(h.bias), logits, stride, false, false};
    share(phase + 1, w.blocks, grain(w.blocks), [&](int u) { p.kernels_->linear(linear, u); });
    p.pool_.barrier();
    const size_t part = p.scratch_.size() / static_cast<size_t>(p.pool_.threads());
    uint8_t* scratch = p.scratch_.data() + part * static_cast<size_t>(thread);
    share(phase + 2, count, 1, [&](int r) {
      sample_head_row(*p.kernels_, s, static_cast<size_t>(first + r), p.head_.vocabulary,
                      logits + static_cast<size_t>(r) * stride, scratch);
    });
    p.pool_.barrier();
  }

  void all(int thread) {
    size_t phase = 0;
    for (const Instruction& i : p.instructions_) {
      std::visit([&](const auto& op) { run(phase, op); }, i);
      p.pool_.barrier();
      ++phase;
    }
    const int heads = static_cast<int>(s.head_rows.size());
    for (int first = 0; first < heads; first += kHeadTile, phase += 3)
      head_tile(phase, first, std::min(kHeadTile, heads - first), thread);
  }
};

void Program::step(Step& s) {
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
