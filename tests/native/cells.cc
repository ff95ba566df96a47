// Prints, for every kernel variant this processor runs, sums over the bits of inputs as they are
// quantized and of their products with packed weights, from the same bytes everywhere.
//
// Built for x86-64, for aarch64 (tests/aarch64) and for WebAssembly (tests/wasm): all lines of a
// format must agree, but for bf16 on AVX-512, where one instruction rounds its own way.
#include <cstdio>
#include <cstring>
#include <vector>

#include "../../native/dispatch.h"
#include "../../native/kernels.h"

namespace {

using argosy::Format;
using argosy::Kind;

constexpr int kK = 224, kBlocks = 3,
              kRows = 13;  // an input group and a part, a pair and one, tiles
constexpr int kStride = 256;

uint32_t state;
uint32_t random_bits() {
  state ^= state << 13, state ^= state >> 17, state ^= state << 5;
  return state;
}

uint64_t hash(uint64_t sum, const void* data, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i)
    sum = (sum ^ static_cast<const uint8_t*>(data)[i]) * 0x100000001b3u;  // FNV-1a
  return sum;
}

// Blocks of random cells. bf16: magnitudes from 2^-15 to 2. Scales and minima: from 2^-6 to 2^-5.
std::vector<uint8_t> packed(Format f, int block_bytes) {
  std::vector<uint8_t> data(static_cast<size_t>(block_bytes) * kBlocks);
  for (uint8_t& byte : data) byte = static_cast<uint8_t>(random_bits());
  auto* words = reinterpret_cast<uint16_t*>(data.data());
  if (f.kind == Kind::kBf16)
    for (size_t i = 0; i < data.size() / 2; ++i) words[i] = (words[i] & 0x87ff) | 0x3800;
  else  // any 16 bits of these may be a scale: integers keep their lower bits
    for (size_t i = 0; i < data.size() / 2; ++i) words[i] = (words[i] & 0x03ff) | 0x2400;
  return data;
}

uint64_t run(const argosy::Kernels& kernels, Format f) {
  const bool quantized = f.kind != Kind::kBf16;
  const int groups = quantized ? kK / f.group : 1, cell = f.kind == Kind::kW4 ? 8 : 4;
  const int lines = f.asymmetric ? groups : (groups + 1) / 2;
  const int block = quantized ? (kK / cell + lines) * 64 : kK / 2 * 64;
  const std::vector<uint8_t> weights = packed(f, block);
  const argosy::Matrix w{weights.data(), f, kK, kK, kBlocks, static_cast<size_t>(block)};
  std::vector<float> x(kRows * kStride, 0.0f), out(kRows * kBlocks * 16);
  for (int r = 0; r < kRows; ++r)
    for (int k = 0; k < kK; ++k)
      x[r * kStride + k] = static_cast<float>(static_cast<int32_t>(random_bits())) * 0x1p-31f *
                           static_cast<float>(1 << (r + k) % 9);
  std::vector<uint8_t> values(kRows * 2 * kStride);
  std::vector<float> scales(kRows * 8), sums(kRows * 8);
  std::vector<int32_t> starts(kRows * 8);
  const int shared = f.kind == Kind::kW4 ? argosy::kInputGroup : f.group;
  const argosy::Inputs in{
      values.data(), 2 * kStride, scales.data(), starts.data(), sums.data(), 8, 8, shared};
  const argosy::PrepareArgs prepare{x.data(), kStride, nullptr, f, kK, kK, in};
  for (int r = 0; r < kRows; ++r) kernels.prepare(prepare, r);
  uint64_t sum = 0xcbf29ce484222325u;
  sum = hash(sum, values.data(), values.size());
  sum = hash(sum, scales.data(), 4 * scales.size());
  sum = hash(sum, starts.data(), 4 * starts.size());
  for (const int unit_blocks : {1, 2}) {
    const argosy::LinearArgs linear{w,     in,    kRows,      nullptr, out.data(), kBlocks * 16,
                                    false, false, unit_blocks};
    for (int u = 0; u * unit_blocks < kBlocks; ++u) kernels.linear(linear, u);
    sum = hash(sum, out.data(), 4 * out.size());
  }
  return sum;
}

}  // namespace

int main() {
  const struct {
    const char* name;
    Format format;
  } formats[] = {{"w4g32", {Kind::kW4, 32, false}},
                 {"w4g32z", {Kind::kW4, 32, true}},
                 {"w8g32", {Kind::kW8, 32, false}},
                 {"bf16", {Kind::kBf16, 0, false}}};
  for (const std::string& isa : argosy::variants())
    for (const auto& f : formats) {
      state = 1;
      const uint64_t sum = run(*argosy::choose_kernels(isa), f.format);
      std::printf("%s %s %016llx\n", f.name, isa.c_str(), static_cast<unsigned long long>(sum));
    }
}
