// Prints, for every kernel variant this processor runs, a sum over the bits of a small model's
// logits.
//
// Built for x86-64 and, with a cross compiler, for aarch64 (tests/aarch64): all lines must agree.
// fp32, fp16, w8 and w4 weights, caches in bf16 and int8, a prompt in chunks across tiles and
// splits; bf16 weights are left out, since one x86 instruction rounds its own way.
#include <cstdio>
#include <cstring>

#include "../../native/dispatch.h"
#include "../../native/program.h"

namespace {

using argosy::Format;
using argosy::Kind;

uint32_t state = 1;
uint32_t random_bits() {
  state ^= state << 13, state ^= state >> 17, state ^= state << 5;
  return state;
}
float random_float(float scale) {
  return scale * (static_cast<float>(random_bits() >> 8) * 0x1p-23f - 1.0f);
}

std::vector<float> floats(size_t count, float scale, float mean = 0.0f) {
  std::vector<float> v(count);
  for (float& x : v) x = mean + random_float(scale);
  return v;
}

constexpr uint16_t kHalfScale = 0x2400;  // 2^-6 in fp16

// A packed matrix of random weights of about `scale`; integers for w8 and w4, fixed scales.
std::vector<uint8_t> packed(Format f, int k, int blocks, float scale) {
  const bool quantized = f.kind == Kind::kW8 || f.kind == Kind::kW4;
  std::vector<uint8_t> data;
  const auto put = [&](const void* p, size_t n) {
    const auto* bytes = static_cast<const uint8_t*>(p);
    data.insert(data.end(), bytes, bytes + n);
  };
  if (f.kind == Kind::kFp32)
    for (const float x : floats(static_cast<size_t>(k) * blocks * 16, scale)) put(&x, 4);
  if (f.kind == Kind::kFp16)
    for (int i = 0; i < k * blocks * 16; ++i) {
      const uint16_t h = static_cast<uint16_t>((random_bits() & 0x83ff) | 0x2c00);  // 1/16 to 1/8
      put(&h, 2);
    }
  if (!quantized) return data;
  const int groups = k / f.group, cells = f.group / (f.kind == Kind::kW4 ? 8 : 4);
  for (int b = 0; b < blocks; ++b)
    for (int g = 0; g < groups; ++g) {
      for (int i = 0; i < cells * 16; ++i) {
        const uint32_t w = random_bits();
        put(&w, 4);
      }
      if (!f.asymmetric && g % 2 == 0 && g + 1 < groups) continue;
      for (int i = 0; i < 32; ++i) {
        const uint16_t s = i < 16 || !f.asymmetric ? kHalfScale : 0x2c00;  // minima: 2^-4
        put(&s, 2);
      }
    }
  return data;
}

struct Model {
  static constexpr int kVocab = 64, kHidden = 128, kHeads = 6, kKvHeads = 2, kDim = 20,
                       kInter = 192;
  std::vector<std::vector<uint8_t>> matrices;
  std::vector<std::vector<float>> vectors;

  Model(argosy::Program& p, argosy::CacheKind cache) {
    const auto matrix = [&](Format f, int k, int columns) {
      matrices.push_back(packed(f, k, columns / 16, 0.2f));
      return p.add_matrix(matrices.back().data(), matrices.back().size(), f, k, columns / 16);
    };
    const auto norm = [&] {
      vectors.push_back(floats(kHidden, 0.2f, 1.0f));
      return p.add_vector(vectors.back().data(), kHidden);
    };
    const Format fp32{Kind::kFp32, 0, false}, fp16{Kind::kFp16, 0, false};
    const Format w8{Kind::kW8, 32, false}, w4{Kind::kW4, 64, true};
    matrices.reserve(8), vectors.reserve(8);
    const int q = kHeads * kDim, kv = kKvHeads * kDim;
    const int q_pad = (q + 15) / 16 * 16, kv_pad = (kv + 15) / 16 * 16;
    const int x = p.add_buffer(kHidden), h = p.add_buffer(kHidden),
              columns = p.add_buffer(q_pad + 2 * kv_pad);
    const int queries = p.add_buffer(q), attended = p.add_buffer(q), middle = p.add_buffer(kInter);
    const int for_qkv = p.add_inputs(kHidden, w8), for_o = p.add_inputs(q, fp16);
    const int for_up = p.add_inputs(kHidden, w4), for_down = p.add_inputs(kInter, w8);
    const int for_head = p.add_inputs(kHidden, fp32);
    std::vector<float> frequencies;
    for (int i = 0; i < kDim / 2; ++i) frequencies.push_back(1.0f / static_cast<float>(1 << i));
    const int rotation = p.add_rotation(frequencies, 1.0f);
    p.add_cache_group(1, kKvHeads, kDim, cache, 80);
    using P = argosy::Program;
    p.add(P::Embed{matrix(fp32, kHidden, kVocab), x});
    p.add(P::Norm{x, h, norm(), 1e-5f, {for_qkv}});
    p.add(
        P::Linear{for_qkv, matrix(w8, kHidden, q_pad + 2 * kv_pad), columns, -1, false, false, -1});
    p.add(P::Qkv{columns, q_pad, q_pad + kv_pad, -1, -1, 1e-5f, rotation, 0, 0, kHeads, queries});
    p.add(P::Attention{queries, attended, 0, 0, kHeads, 0.25f, 0});
    p.add(P::Prepare{attended, for_o, false});
    p.add(P::Linear{for_o, matrix(fp16, q, kHidden), x, -1, true, false, -1});
    p.add(P::Norm{x, h, norm(), 1e-5f, {for_up}});
    p.add(P::Linear{for_up, matrix(w4, kHidden, 2 * kInter), middle, -1, false, true, for_down});
    p.add(P::Prepare{middle, for_down, true});
    p.add(P::Linear{for_down, matrix(w8, kInter, kHidden), x, -1, true, false, -1});
    p.add(P::Norm{x, h, norm(), 1e-5f, {}});
    p.set_head(h, for_head, matrix(fp32, kHidden, kVocab), -1, kVocab);
  }
};

// Logits of rows [from, to) of one sequence in pages 1, 2, 3 ...; the last row's draw is seeded.
uint64_t step(argosy::Program& p, int from, int to, uint64_t sum) {
  const size_t n = static_cast<size_t>(to - from);
  std::vector<int32_t> tokens, positions, slots, table, zero(n, 0), rows, starts(n + 1, 0);
  for (int i = from; i < to; ++i) {
    tokens.push_back(i * 7 % Model::kVocab);
    positions.push_back(i);
    slots.push_back(16 + i);
    rows.push_back(i - from);
  }
  for (int i = 0; i < 70; ++i) table.push_back(i + 1);
  const std::vector<int32_t> row_starts{0, to - from}, lengths{to}, none;
  const std::vector<uint8_t> ones(n, 1), zeros(n, 0);
  const std::vector<float> temperature(n, 0.8f), one(n, 1.0f), nothing(n, 0.0f);
  const std::vector<uint64_t> seeds(n, 42);
  std::vector<uint8_t> bad(n), status(n);
  std::vector<int32_t> drawn(n), rank(n), top_ids(2 * n), two(n, 2);
  std::vector<float> logprob(n), top(2 * n), logits(n * Model::kVocab);
  argosy::Step s;
  s.tokens = tokens, s.positions = positions, s.row_starts = row_starts, s.lengths = lengths;
  s.slots = {slots}, s.page_tables = {table}, s.copies = {none};
  s.head_rows = rows, s.targets = zero, s.logprobs = two, s.top_k = zero,
  s.draw_positions = positions;
  s.edit_starts = starts, s.mask_rows = zero, s.draw = ones, s.want = ones, s.has_mask = zeros;
  s.temperature = temperature, s.top_p = one, s.min_p = nothing, s.seeds = seeds;
  s.row_nonfinite = bad, s.head_status = status, s.out_tokens = drawn, s.out_rank = rank;
  s.out_top_ids = top_ids, s.out_logprob = logprob, s.out_top_logprobs = top, s.out_logits = logits;
  p.step(s);
  for (const uint8_t failed : status)
    if (failed) throw std::runtime_error("logits are not finite: the sum would say nothing");
  const auto add = [&](const void* data, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i)
      sum = (sum ^ static_cast<const uint8_t*>(data)[i]) * 0x100000001b3u;  // FNV-1a
  };
  add(logits.data(), 4 * logits.size());
  add(drawn.data(), 4 * n);
  add(logprob.data(), 4 * n);
  add(status.data(), n);
  return sum;
}

}  // namespace

int main() {
  for (const std::string& isa : argosy::variants()) {
    uint64_t sum = 0xcbf29ce484222325u;
    for (const auto cache : {argosy::CacheKind::kBf16, argosy::CacheKind::kInt8}) {
      argosy::Program program(2, isa);
      state = 1;
      const Model model(program, cache);
      sum = step(program, 0, 70, sum);
      sum = step(program, 70, 600, sum);
      sum = step(program, 600, 601, sum);
    }
    std::printf("%s %016llx\n", isa.c_str(), static_cast<unsigned long long>(sum));
  }
}
