#include "step.h"

#include <algorithm>
#include <cstring>

namespace argosy {

void refuse(const std::string& why) { throw std::invalid_argument(why); }

void check_range(std::span<const int32_t> values, int64_t end, const char* what) {
  for (const int32_t v : values)
    if (v < 0 || v >= end)
      refuse(std::string(what) + " " + std::to_string(v) + " is not in [0, " + std::to_string(end) +
             ")");
}

void check_size(size_t size, size_t expected, const char* what) {
  if (size != expected)
    refuse(std::string(what) + " has " + std::to_string(size) + " entries, not " +
           std::to_string(expected));
}

void check_head(const Step& s, size_t rows, int vocabulary) {
  const size_t n = s.head_rows.size();
  check_range(s.head_rows, static_cast<int64_t>(rows), "head row");
  check_range(s.targets, vocabulary, "target");
  check_range(s.edit_ids, vocabulary, "edited token");
  for (const size_t size :
       {s.targets.size(), s.want.size(), s.logprobs.size(), s.top_k.size(), s.draw_positions.size(),
        s.mask_rows.size(), s.draw.size(), s.has_mask.size(), s.temperature.size(), s.top_p.size(),
        s.min_p.size(), s.seeds.size(), s.head_status.size(), s.out_tokens.size(),
        s.out_rank.size(), s.out_logprob.size()})
    check_size(size, n, "an array of head rows");
  check_size(s.edit_starts.size(), n + 1, "edit_starts");
  for (size_t h = 0; h < n; ++h)
    if (s.edit_starts[h] < 0 || s.edit_starts[h] > s.edit_starts[h + 1]) refuse("edit_starts fall");
  for (const size_t size :
       {s.edit_ids.size(), s.edit_bias.size(), s.edit_repetition.size(), s.edit_penalty.size()})
    check_size(size, static_cast<size_t>(s.edit_starts[n]), "edits");
  const size_t words = static_cast<size_t>((vocabulary + 31) / 32);
  for (size_t h = 0; h < n; ++h) {
    if (s.has_mask[h] &&
        (s.mask_rows[h] < 0 || (static_cast<size_t>(s.mask_rows[h]) + 1) * words > s.masks.size()))
      refuse("mask row " + std::to_string(s.mask_rows[h]) + " does not exist");
    if (!(s.temperature[h] >= 0 && s.temperature[h] <= 3.4028235e38f && s.min_p[h] <= 1))
      refuse("a temperature or min_p is out of range");
    if (s.want[h] && (s.logprobs[h] < 0 || s.logprobs[h] * n > s.out_top_ids.size()))
      refuse("more logprobs wanted than there is room for");
  }
  check_size(s.out_top_logprobs.size(), s.out_top_ids.size(), "top logprobs");
  if (!s.out_logits.empty())
    check_size(s.out_logits.size(), n * static_cast<size_t>(vocabulary), "logits");
}

void sample_head_row(const Kernels& kernels, Step& s, size_t row, int vocabulary, float* logits,
                     void* scratch) {
  const size_t n = static_cast<size_t>(vocabulary);
  if (!s.out_logits.empty()) std::memcpy(s.out_logits.data() + row * n, logits, 4 * n);
  const int32_t edits = s.edit_starts[row];
  const size_t top = s.out_top_ids.size() / s.head_rows.size();
  const uint32_t* mask = nullptr;
  if (s.has_mask[row]) mask = s.masks.data() + s.mask_rows[row] * ((n + 31) / 32);
  const SampleRow want{.logits = logits,
                       .vocab = vocabulary,
                       .draw = s.draw[row] != 0,
                       .target = s.targets[row],
                       .want_logprobs = s.want[row] != 0,
                       .num_top = s.want[row] ? std::min(s.logprobs[row], vocabulary) : 0,
                       .temperature = s.temperature[row],
                       .top_k = s.top_k[row],
                       .top_p = s.top_p[row],
                       .min_p = s.min_p[row],
                       .seed = s.seeds[row],
                       .position = s.draw_positions[row],
                       .num_edits = s.edit_starts[row + 1] - edits,
                       .edit_ids = s.edit_ids.data() + edits,
                       .edit_bias = s.edit_bias.data() + edits,
                       .edit_repetition = s.edit_repetition.data() + edits,
                       .edit_penalty = s.edit_penalty.data() + edits,
                       .mask = mask};
  Sampled out{};
  out.top_ids = s.out_top_ids.data() + row * top;
  out.top_logprobs = s.out_top_logprobs.data() + row * top;
  kernels.sample(want, scratch, out);
  s.out_tokens[row] = out.token;
  s.out_logprob[row] = out.logprob;
  s.out_rank[row] = out.rank;
  s.head_status[row] = static_cast<uint8_t>(out.error);
}

}  // namespace argosy
