#include "program.h"

#include <unistd.h>

#include <algorithm>
#include <iterator>

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
  const size_t element = kind == CacheKind::kFp32 ? 4 : kind == CacheKind::kBf16 ? 2 : 1;
  const size_t scales = kind == CacheKind::kInt8 ? 4 * kPageTokens : 0;
  Cache c{};
  c.kind = kind;
  c.head_dim = head_dim;
  c.kv_heads = kv_heads;
  c.value_offset = static_cast<size_t>(round_up(head_dim, 4)) * kPageTokens * element + scales;
  c.record_bytes = c.value_offset + scales +
                   static_cast<size_t>(round_up(head_dim, kColumns)) * kPageTokens * element;
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

void Program::profile() {
  static constexpr const char* kNames[] = {"embed",  "norm",   "inputs",
                                           "matrix", "rotate", "attention"};
  static_assert(std::size(kNames) == std::variant_size_v<Instruction>);
  times_.clear();
  for (const Instruction& i : instructions_) {
    const auto* linear = std::get_if<Linear>(&i);
    times_.push_back({kNames[i.index()], linear ? linear->matrix : -1, 0, 0});
  }
  times_.push_back({"inputs", -1, 0, 0});
  times_.push_back({"matrix", head_.matrix, 0, 0});
  times_.push_back({"sample", -1, 0, 0});
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
  in.scale_group = format.kind == Kind::kW4 ? kInputGroup : std::max(1, format.group);
  in.scale_stride = static_cast<size_t>((k_pad + in.scale_group - 1) / in.scale_group);
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

}  // namespace argosy
