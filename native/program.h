// A lowered program and its executor: instructions over buffers, one call per step.
//
// Built once by runtime/native/lower.py through binding.cc; `step` walks the instructions on the
// pool with a barrier after each. Matrices and vectors point into the bundle, which outlives this.
#pragma once
#include <atomic>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "kernels.h"
#include "memory.h"
#include "pool.h"
#include "step.h"

namespace argosy {

class Program {
 public:
  Program(int threads, const std::string& isa);
  ~Program();

  const char* isa() const { return kernels_->name; }
  int threads() const { return pool_.threads(); }

  // Building. Every call returns an index for later ones.
  int add_matrix(const uint8_t* data, size_t bytes, Format format, int k, int blocks);
  int add_vector(const float* data, int size);
  int add_buffer(int width);
  int add_inputs(int k, Format format);
  int add_rotation(std::span<const float> inv_freq, float scale);
  int add_cache_group(int layers, int kv_heads, int head_dim, CacheKind kind, int pages);

  struct Embed {
    int matrix, out;
  };
  struct Norm {
    int x, out, weight;
    float eps;
    std::vector<int> inputs;  // prepared from `out` by the thread that made the row
  };
  struct Prepare {
    int x, inputs;
    bool fused;  // the product before has done it where rows are many
  };
  struct Linear {
    int inputs, matrix, out, bias;  // bias -1: none
    bool residual, gated;
    int into;  // gated: inputs that y is for, or -1; written at once where rows are many
  };
  struct Qkv {
    int qkv, k_at, v_at, q_norm, k_norm;  // norms -1: none
    float eps;
    int rotation, group, layer, heads, out;
  };
  struct Attention {
    int q, out, group, layer, heads;
    float scale;
    int window;
  };
  using Instruction = std::variant<Embed, Norm, Prepare, Linear, Qkv, Attention>;
  void add(Instruction i) { instructions_.push_back(std::move(i)); }
  void set_head(int x, int inputs, int matrix, int bias, int vocabulary);

  // From the next step on, thread 0 counts up *cell, which outlives this, as it gets on: at every
  // instruction, at every run of units it takes, and at every page copied.
  void watch(uint64_t* cell) { heartbeat_ = cell; }

  // Where steps spent their time, as thread 0 saw it: seconds of an operation's own work, and of
  // waiting for the other threads at its end. matrix: which one it multiplies by, or -1.
  struct Spent {
    const char* operation;
    int matrix;
    double work, wait;
  };
  void profile();  // from now on, from zero
  const std::vector<Spent>& times() const { return times_; }

  // Throws std::invalid_argument for arrays that would read or write out of bounds.
  void step(Step& s);

 private:
  struct Buffer {
    int width, stride;
    Memory memory;
    float* data() const { return reinterpret_cast<float*>(memory.data()); }
  };
  struct InputBuffer {
    Format format;
    int k, k_pad, groups;
    Memory values, scales, starts, sums;
    Inputs view() const;
  };
  struct Rotation {
    std::vector<float> inv_freq;
    float scale;
    std::vector<float> cosine, sine;
  };
  struct CacheGroup {
    Cache shape;  // base of layer 0
    int layers, pages;
    Memory memory;
    Cache layer(int i) const;
  };
  struct AttentionUnit {
    int sequence, row, rows;
  };
  struct HeadOp {
    int x = -1, inputs = -1, matrix = -1, bias = -1, vocabulary = 0;
  };
  struct Run;  // one step on all threads

  void check(const Step& s) const;
  void reserve(int rows, int head_rows);
  void copy_pages(const Step& s);

  uint64_t unwatched_ = 0;
  std::atomic<uint64_t*> heartbeat_{&unwatched_};
  std::mutex mutex_;  // steps of several callers go one after another
  Pool pool_;
  const Kernels* kernels_;
  long process_;
  int capacity_ = 0;
  std::vector<Matrix> matrices_;
  std::vector<std::span<const float>> vectors_;
  std::vector<Buffer> buffers_;
  std::vector<InputBuffer> inputs_;
  std::vector<Rotation> rotations_;
  std::vector<CacheGroup> groups_;
  std::vector<Instruction> instructions_;
  HeadOp head_;
  std::vector<Spent> times_;  // of each instruction, then of the head's three phases; or empty
  Memory logits_, scratch_;   // scratch_: the sampler's, one part per thread
};

}  // namespace argosy
