// One step's arrays, and the head rows among them: their checks and their draws.
#pragma once
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"

namespace argosy {

// One step's arrays, as engine/batch.py builds them. All borrowed for the length of the call.
struct Step {
  std::span<const int32_t> tokens, positions, row_starts, lengths;
  std::vector<std::span<const int32_t>> slots, page_tables, copies;  // one per cache group
  std::span<const int32_t> head_rows, targets, logprobs, top_k, draw_positions, edit_starts,
      edit_ids, mask_rows;
  std::span<const uint8_t> draw, want, has_mask;
  std::span<const float> temperature, top_p, min_p, edit_bias, edit_repetition, edit_penalty;
  std::span<const uint64_t> seeds;
  std::span<const uint32_t> masks;
  // Results.
  std::span<uint8_t> row_nonfinite, head_status;
  std::span<int32_t> out_tokens, out_rank, out_top_ids;
  std::span<float> out_logprob, out_top_logprobs, out_logits;  // logits: empty unless wanted
};

// Throw std::invalid_argument naming the value, so that nothing a caller passes becomes an address.
[[noreturn]] void refuse(const std::string& why);
void check_range(std::span<const int32_t> values, int64_t end, const char* what);
void check_size(size_t size, size_t expected, const char* what);
void check_head(const Step& s, size_t rows, int vocabulary);

// Draws or scores head row `row` from its raw logits, which it edits; scratch: of one thread.
void sample_head_row(const Kernels& kernels, Step& s, size_t row, int vocabulary, float* logits,
                     void* scratch);

}  // namespace argosy
