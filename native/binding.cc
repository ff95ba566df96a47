// Python's view of the executor: argosy.runtime.native._core. Called by lower.py and runtime.py
// only.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "dispatch.h"
#include "program.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace argosy {
namespace {

template <class T>
using In = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;
template <class T>
using Out = nb::ndarray<T, nb::c_contig, nb::device::cpu>;

template <class T>
std::span<const T> view(const In<T>& a) {
  return {a.data(), a.size()};
}

template <class A>
A exactly(nb::handle object, const char* name) {
  A a;
  if (!nb::try_cast(object, a, false))
    refuse(std::string(name) + " is not a C-contiguous array of the right type");
  return a;
}

// Attributes of the Batch dataclass, cast without copies: a wrong dtype or layout is an error.
template <class T>
std::span<const T> attr(nb::handle object, const char* name) {
  return view(exactly<In<T>>(object.attr(name), name));
}
template <class T>
std::span<T> out(nb::handle object, const char* name) {
  const auto a = exactly<Out<T>>(object.attr(name), name);
  return {a.data(), a.size()};
}

std::vector<std::span<const int32_t>> groups(nb::handle sequence) {
  std::vector<std::span<const int32_t>> all;
  for (const nb::handle h : sequence)
    all.push_back(view(exactly<In<int32_t>>(h, "an array of a group")));
  return all;
}

void read_head(nb::handle head, Step& s) {
  s.head_rows = attr<int32_t>(head, "rows");
  s.targets = attr<int32_t>(head, "targets");
  s.draw = attr<uint8_t>(head, "draw");
  s.want = attr<uint8_t>(head, "want_logprobs");
  s.logprobs = attr<int32_t>(head, "logprobs");
  s.temperature = attr<float>(head, "temperature");
  s.top_k = attr<int32_t>(head, "top_k");
  s.top_p = attr<float>(head, "top_p");
  s.min_p = attr<float>(head, "min_p");
  s.seeds = attr<uint64_t>(head, "seeds");
  s.draw_positions = attr<int32_t>(head, "positions");
  s.has_mask = attr<uint8_t>(head, "has_mask");
  s.mask_rows = attr<int32_t>(head, "mask_rows");
  if (!head.attr("masks").is_none()) s.masks = attr<uint32_t>(head, "masks");
  const nb::object edits = head.attr("edits");
  s.edit_starts = attr<int32_t>(edits, "starts");
  s.edit_ids = attr<int32_t>(edits, "ids");
  s.edit_bias = attr<float>(edits, "bias");
  s.edit_repetition = attr<float>(edits, "repetition");
  s.edit_penalty = attr<float>(edits, "penalty");
}

void read_head_results(nb::handle result, Step& s) {
  s.head_status = out<uint8_t>(result, "head_status");
  s.out_tokens = out<int32_t>(result, "tokens");
  s.out_rank = out<int32_t>(result, "rank");
  s.out_top_ids = out<int32_t>(result, "top_ids");
  s.out_logprob = out<float>(result, "logprob");
  s.out_top_logprobs = out<float>(result, "top_logprobs");
}

// y = exp or log of x, for tests.
void elementary(const std::string& name, In<float> x, Out<float> y, const std::string& isa) {
  const Kernels& kernels = *choose_kernels(isa);
  check_size(y.size(), x.size(), "y");
  (name == "exp" ? kernels.exp : kernels.log)(x.data(), y.data(), x.size());
}

// Runs one step: `batch` is types.Batch, `result` holds the arrays to fill (runtime.py).
void step(Program& program, nb::object batch, nb::object result) {
  Step s;
  s.tokens = attr<int32_t>(batch, "tokens");
  s.positions = attr<int32_t>(batch, "positions");
  s.row_starts = attr<int32_t>(batch, "row_starts");
  s.lengths = attr<int32_t>(batch, "lengths");
  const auto slots = exactly<In<int32_t>>(batch.attr("slots"), "slots");
  check_size(slots.ndim(), 2, "the shape of slots");
  for (size_t g = 0; g < slots.shape(0); ++g)
    s.slots.emplace_back(slots.data() + g * slots.shape(1), slots.shape(1));
  s.page_tables = groups(batch.attr("page_tables"));
  s.copies = groups(batch.attr("copies"));
  read_head(batch.attr("head"), s);
  s.row_nonfinite = out<uint8_t>(result, "row_nonfinite");
  read_head_results(result, s);
  if (!result.attr("logits").is_none()) s.out_logits = out<float>(result, "logits");
  const nb::gil_scoped_release unlocked;
  program.step(s);
}

// The sampler alone, for tests: logits (H, V) are edited, `result` is filled.
void sample_rows(Out<float> logits, nb::object head, nb::object result, const std::string& isa) {
  const Kernels& kernels = *choose_kernels(isa);
  Step s;
  read_head(head, s);
  read_head_results(result, s);
  check_size(logits.ndim(), 2, "the shape of logits");
  check_size(logits.shape(0), s.head_rows.size(), "logits");
  const int vocabulary = static_cast<int>(logits.shape(1));
  check_head(s, logits.shape(0), vocabulary);
  const Memory scratch(kernels.sample_scratch_bytes(vocabulary));
  for (size_t row = 0; row < logits.shape(0); ++row)
    sample_head_row(kernels, s, row, vocabulary, logits.data() + row * logits.shape(1),
                    scratch.data());
}

Format format(int kind, int group, bool asymmetric) {
  return {static_cast<Kind>(kind), group, asymmetric};
}

}  // namespace
}  // namespace argosy

NB_MODULE(_core, m) {
  using argosy::Program;
  // An engine kept alive by a traceback at exit is no leak worth fifteen lines over the error.
  nb::set_leak_warnings(false);
  m.def("sample_rows", &argosy::sample_rows, "logits"_a, "head"_a, "result"_a, "isa"_a);
  m.def("elementary", &argosy::elementary, "name"_a, "x"_a, "y"_a, "isa"_a);
  m.def("variants", &argosy::variants, "Kernel variants this processor runs, best first.");
  nb::class_<Program>(m, "Program")
      .def(nb::init<int, const std::string&>(), "threads"_a, "isa"_a)
      .def_prop_ro("isa", &Program::isa)
      .def_prop_ro("threads", &Program::threads)
      .def(
          "matrix",
          [](Program& p, nb::handle array, int kind, int group, bool asymmetric, int k,
             int blocks) {
            const auto data = argosy::exactly<argosy::In<uint8_t>>(array, "a matrix");
            return p.add_matrix(data.data(), data.size(), argosy::format(kind, group, asymmetric),
                                k, blocks);
          },
          nb::keep_alive<1, 2>())
      .def(
          "vector",
          [](Program& p, nb::handle array) {
            const auto data = argosy::exactly<argosy::In<float>>(array, "a vector");
            return p.add_vector(data.data(), static_cast<int>(data.size()));
          },
          nb::keep_alive<1, 2>())
      .def("buffer", &Program::add_buffer)
      .def("inputs",
           [](Program& p, int k, int kind, int group, bool asymmetric) {
             return p.add_inputs(k, argosy::format(kind, group, asymmetric));
           })
      .def("rotation", [](Program& p, argosy::In<float> inv_freq,
                          float scale) { return p.add_rotation(argosy::view(inv_freq), scale); })
      .def("cache_group",
           [](Program& p, int layers, int kv_heads, int head_dim, int kind, int pages) {
             return p.add_cache_group(layers, kv_heads, head_dim,
                                      static_cast<argosy::CacheKind>(kind), pages);
           })
      .def("embed",
           [](Program& p, int matrix, int out) {
             p.add(Program::Embed{matrix, out});
           })
      .def("norm",
           [](Program& p, int x, int out, int weight, float eps, std::vector<int> inputs) {
             p.add(Program::Norm{x, out, weight, eps, std::move(inputs)});
           })
      .def("prepare",
           [](Program& p, int x, int inputs, bool fused) {
             p.add(Program::Prepare{x, inputs, fused});
           })
      .def("linear",
           [](Program& p, int inputs, int matrix, int out, int bias, bool residual, bool gated,
              int into) {
             p.add(Program::Linear{inputs, matrix, out, bias, residual, gated, into});
           })
      .def("qkv",
           [](Program& p, int qkv, int k_at, int v_at, int q_norm, int k_norm, float eps,
              int rotation, int group, int layer, int heads, int out) {
             p.add(Program::Qkv{qkv, k_at, v_at, q_norm, k_norm, eps, rotation, group, layer, heads,
                                out});
           })
      .def(
          "attention",
          [](Program& p, int q, int out, int group, int layer, int heads, float scale, int window) {
            p.add(Program::Attention{q, out, group, layer, heads, scale, window});
          })
      .def("head", &Program::set_head)
      .def(
          "watch",
          [](Program& p, nb::handle array) {
            const auto cell = argosy::exactly<argosy::Out<uint64_t>>(array, "a heartbeat");
            argosy::check_size(cell.size(), 1, "a heartbeat");
            p.watch(cell.data());
          },
          "cell"_a, nb::keep_alive<1, 2>())
      .def("profile", &Program::profile)
      .def("times",
           [](const Program& p) {
             std::vector<std::tuple<std::string, int, double, double>> found;
             for (const Program::Spent& s : p.times())
               found.emplace_back(s.operation, s.matrix, s.work, s.wait);
             return found;
           })
      .def("step", &argosy::step, "batch"_a, "result"_a);
}
