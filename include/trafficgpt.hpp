/* trafficgpt.hpp: the C++ face of trafficgpt.h. C++17, header only, nothing to link but the library.
 *
 *   auto context = trafficgpt::context::make().value();
 *   auto classifier = trafficgpt::classifier::open(context, "model.tgpt").value();
 *   auto worker = trafficgpt::worker::make(context).value();
 *
 *   trafficgpt::rows flows;
 *   flows.push_back({{60, 0}, {-60, 21000}, {52, 90}});
 *   std::vector<std::uint32_t> labels(flows.size());
 *   classifier.classify(worker, flows, labels).value();
 *   std::cout << classifier.label(labels[0]) << '\n';
 *
 * The manual is trafficgpt.h: what it says of calls, their units, errors and threads holds here. What C++ adds:
 *
 * HANDLES own what they name: they move, do not copy, and free it when they go, in any order. One made without arguments
 *   or moved from is empty: it may be destroyed and assigned to; any other call with it answers TGPT_E_INVALID or, where
 *   nothing can fail, 0 or an empty string. `get()` is the C handle, for calls of C.
 *
 * ERRORS. A call that can fail returns a `result`, which the compiler will not let you drop. Two ways to read it:
 *     const auto n = flows.poll(verdicts).value();      throws trafficgpt::error
 *     const auto n = flows.poll(verdicts);              throws nothing; all there is with -fno-exceptions
 *     if (!n) log(n.error().code(), n.error().what());
 *   Calls that return a container or take a std::string may also run out of memory as those do. Pushing, polling,
 *   classifying and quantizing allocate nothing on the C++ side.
 *
 * THREADS. A const member function may run on any threads at once; one that is not const, and one that takes a worker,
 *   excludes every other on that object. Moving and destroying exclude everything.
 */

#ifndef TRAFFICGPT_HPP
#define TRAFFICGPT_HPP

#include <trafficgpt.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace trafficgpt {

using packet = tgpt_packet;
using observation = tgpt_observation;
using frame_info = tgpt_frame_info;
using flow_info = tgpt_flow_info;
using verdict = tgpt_verdict;

/** What went wrong: one of TGPT_E_*, and a sentence. An exception where there are any, a value everywhere. */
class error : public std::exception {
 public:
  /** Nothing went wrong. */
  error() noexcept = default;
  error(tgpt_status code, const char *sentence) noexcept {
    details_.code = code;
    std::snprintf(details_.msg, sizeof details_.msg, "%s", sentence);
  }
  tgpt_status code() const noexcept { return details_.code; }
  const char *what() const noexcept override { return details_.msg; }
  /** Where a call of C writes it. */
  tgpt_error *raw() noexcept { return &details_; }

 private:
  tgpt_error details_{};
};

/** What a call gives, or the error that it met. `T` may be void. */
template <typename T>
class [[nodiscard]] result {
 public:
  result(T value) noexcept(std::is_nothrow_move_constructible_v<T>) : value_(std::move(value)) {}
  result(const trafficgpt::error &why) noexcept : error_(why) {}

  /** Whether there is a value. */
  explicit operator bool() const noexcept { return value_.has_value(); }
  /** The value; there must be one. */
  T &operator*() & noexcept { return *value_; }
  const T &operator*() const & noexcept { return *value_; }
  T operator*() && { return *std::move(value_); }
  T *operator->() noexcept { return &*value_; }
  const T *operator->() const noexcept { return &*value_; }
  /** The error; TGPT_OK where there is none. */
  const trafficgpt::error &error() const noexcept { return error_; }

#if defined(__cpp_exceptions)
  /** The value, or the error as an exception. */
  T &value() & {
    if (!value_) throw error_;
    return *value_;
  }
  const T &value() const & {
    if (!value_) throw error_;
    return *value_;
  }
  T value() && {
    if (!value_) throw error_;
    return *std::move(value_);
  }
#endif

 private:
  std::optional<T> value_;
  trafficgpt::error error_;
};

template <>
class [[nodiscard]] result<void> {
 public:
  result() noexcept = default;
  result(const trafficgpt::error &why) noexcept : error_(why) {}

  explicit operator bool() const noexcept { return error_.code() == TGPT_OK; }
  const trafficgpt::error &error() const noexcept { return error_; }
#if defined(__cpp_exceptions)
  void value() const {
    if (error_.code() != TGPT_OK) throw error_;
  }
#endif

 private:
  trafficgpt::error error_;
};

/** Values one after another in memory that others own: of a vector, an array, a std::span, a pointer and a length. A type
 * of our own also where std::span is there, so that objects of C++17 and C++20 may be linked together. */
template <typename T>
class span {
 public:
  constexpr span() noexcept = default;
  constexpr span(T *data, std::size_t size) noexcept : data_(data), size_(size) {}
  /** Of anything that has data() and size(), and of arrays. */
  template <typename C, typename Data = decltype(std::data(std::declval<C &>())),
            typename = std::enable_if_t<std::is_convertible_v<std::remove_pointer_t<Data> (*)[], T (*)[]>>>
  constexpr span(C &&values) noexcept : data_(std::data(values)), size_(static_cast<std::size_t>(std::size(values))) {}

  constexpr T *data() const noexcept { return data_; }
  constexpr std::size_t size() const noexcept { return size_; }
  constexpr bool empty() const noexcept { return size_ == 0; }
  constexpr T *begin() const noexcept { return data_; }
  constexpr T *end() const noexcept { return data_ + size_; }
  constexpr T &operator[](std::size_t i) const noexcept { return data_[i]; }
  /** The first `n`, or all where there are fewer. */
  constexpr span first(std::size_t n) const noexcept { return {data_, std::min(n, size_)}; }

 private:
  T *data_ = nullptr;
  std::size_t size_ = 0;
};

/** Flows of different lengths, one after another, in memory that others own: flow i is
 * packets[offsets[i] .. offsets[i + 1]], with one offset more than there are flows; the first is 0 and none falls. */
class ragged {
 public:
  ragged() noexcept = default;
  ragged(span<const packet> packets, span<const std::uint64_t> offsets) noexcept
      : packets_(packets), offsets_(offsets) {}

  /** Number of flows. */
  std::size_t size() const noexcept { return offsets_.empty() ? 0 : offsets_.size() - 1; }
  /** The packets of flow `i`, which must be one. */
  span<const packet> operator[](std::size_t i) const noexcept {
    return {packets_.data() + offsets_[i], static_cast<std::size_t>(offsets_[i + 1] - offsets_[i])};
  }
  span<const packet> packets() const noexcept { return packets_; }
  span<const std::uint64_t> offsets() const noexcept { return offsets_; }

 private:
  span<const packet> packets_;
  span<const std::uint64_t> offsets_;
};

/** The same in memory of its own, built flow by flow. */
class rows {
 public:
  /** Copies the packets of a flow, which must not lie in these rows. */
  void push_back(span<const packet> flow) {
    if (offsets_.empty()) offsets_.push_back(0);
    /* Less what a push left that ran out of memory. */
    packets_.resize(static_cast<std::size_t>(offsets_.back()));
    packets_.insert(packets_.end(), flow.begin(), flow.end());
    offsets_.push_back(packets_.size());
  }
  void push_back(std::initializer_list<packet> flow) { push_back(span<const packet>(flow.begin(), flow.size())); }
  void clear() noexcept {
    packets_.clear();
    offsets_.clear();
  }

  std::size_t size() const noexcept { return view().size(); }
  span<const packet> operator[](std::size_t i) const noexcept { return view()[i]; }
  ragged view() const noexcept { return {packets_, offsets_}; }
  operator ragged() const noexcept { return view(); }

 private:
  friend class generator;
  std::vector<packet> packets_;
  std::vector<std::uint64_t> offsets_;
};

namespace detail {

/** A handle of C that is freed by `Free`. */
template <typename T, void (*Free)(T *)>
class handle {
 public:
  handle() noexcept = default;
  /** Owns what C gave; NULL makes it empty. */
  explicit handle(T *raw) noexcept : raw_(raw) {}

  T *get() noexcept { return raw_.get(); }
  const T *get() const noexcept { return raw_.get(); }
  /** Gives the C handle away: who called frees it. */
  T *release() noexcept { return raw_.release(); }
  /** Whether it is not empty. */
  explicit operator bool() const noexcept { return raw_ != nullptr; }

 private:
  struct deleter {
    void operator()(T *raw) const noexcept { Free(raw); }
  };
  std::unique_ptr<T, deleter> raw_;
};

/** `raw` as a handle, unless the call that made it failed. */
template <typename Handle, typename Raw>
result<Handle> made(Raw *raw, const error &why) noexcept {
  if (why.code() != TGPT_OK) return why;
  return Handle(raw);
}

inline result<void> done(const error &why) noexcept { return why; }

inline std::string_view text(const char *text_or_null) noexcept {
  return text_or_null == nullptr ? std::string_view() : std::string_view(text_or_null);
}

inline error wrong_size(const char *name, std::size_t has, std::size_t needed) noexcept {
  char sentence[128];
  std::snprintf(sentence, sizeof sentence, "%s has %zu values; there must be %zu", name, has, needed);
  return {TGPT_E_INVALID, sentence};
}

/** TGPT_E_INVALID if offsets end outside the packets, which C cannot see. */
inline error check(const ragged &flows) noexcept {
  const auto offsets = flows.offsets();
  if (offsets.empty() || offsets[offsets.size() - 1] <= flows.packets().size()) return {};
  return {TGPT_E_INVALID, "offsets end past the packets"};
}

}  // namespace detail

/** Settings by key, as listed at the top of trafficgpt.h. */
class config : public detail::handle<tgpt_config, tgpt_config_free> {
 public:
  using handle::handle;
  /** All at their defaults. */
  static result<config> make() {
    error why;
    tgpt_config *raw = nullptr;
    tgpt_config_new(&raw, why.raw());
    return detail::made<config>(raw, why);
  }
  result<void> set(const std::string &key, const std::string &value) {
    error why;
    tgpt_config_set(get(), key.c_str(), value.c_str(), why.raw());
    return detail::done(why);
  }

 private:
  friend class context;
  friend class capture;
  friend class flows;
  /** C takes NULL for defaults; one that was moved from must not pass for that. */
  error check() const noexcept {
    return *this ? error() : error(TGPT_E_INVALID, "config is empty: it was moved from, or never made");
  }
};

/** Hooks that hand the log's lines to `sink(std::int32_t level, std::string_view line)`, which must not throw and must
 * live as long as the context and all that is made from it. */
template <typename Sink>
tgpt_hooks log_to(Sink &sink) noexcept {
  static_assert(std::is_nothrow_invocable_v<Sink &, std::int32_t, std::string_view>, "sink must be noexcept");
  tgpt_hooks hooks{};
  hooks.type_size = sizeof hooks;
  hooks.user = &sink;
  hooks.log = [](void *user, std::int32_t level, const char *line, std::size_t length) {
    (*static_cast<Sink *>(user))(level, std::string_view(line, length));
  };
  return hooks;
}

/** The root of everything that runs. */
class context : public detail::handle<tgpt_context, tgpt_context_free> {
 public:
  using handle::handle;
  /** TGPT_E_MISMATCH where the library that was loaded is of another ABI than this header. */
  static result<context> make() { return make(nullptr, nullptr); }
  static result<context> make(const config &settings) {
    const error why = settings.check();
    return why.code() != TGPT_OK ? result<context>(why) : make(settings.get(), nullptr);
  }
  static result<context> make(const config &settings, const tgpt_hooks &hooks) {
    const error why = settings.check();
    return why.code() != TGPT_OK ? result<context>(why) : make(settings.get(), &hooks);
  }

 private:
  static result<context> make(const tgpt_config *settings, const tgpt_hooks *hooks) {
    if (tgpt_abi() != TGPT_ABI) {
      char sentence[128];
      std::snprintf(sentence, sizeof sentence, "the library has ABI %u, this program was compiled for %u",
                    static_cast<unsigned>(tgpt_abi()), static_cast<unsigned>(TGPT_ABI));
      return error(TGPT_E_MISMATCH, sentence);
    }
    error why;
    tgpt_context *raw = nullptr;
    tgpt_context_new(settings, hooks, &raw, why.raw());
    return detail::made<context>(raw, why);
  }
};

/** One thread's scratch, for any number of models. */
class worker : public detail::handle<tgpt_worker, tgpt_worker_free> {
 public:
  using handle::handle;
  static result<worker> make(const context &parent) {
    error why;
    tgpt_worker *raw = nullptr;
    tgpt_worker_new(parent.get(), &raw, why.raw());
    return detail::made<worker>(raw, why);
  }
};

/** The flows of a capture file. */
class capture : public detail::handle<tgpt_capture, tgpt_capture_free> {
 public:
  using handle::handle;
  static result<capture> open(const std::string &path) { return open(path, nullptr); }
  static result<capture> open(const std::string &path, const config &settings) {
    const error why = settings.check();
    return why.code() != TGPT_OK ? result<capture>(why) : open(path, settings.get());
  }

  /** Number of flows. */
  std::size_t size() const noexcept { return tgpt_capture_n_flows(get()); }
  /** The packets of all flows, in memory of this capture. */
  result<ragged> flows() const {
    error why;
    const packet *packets = nullptr;
    const std::uint64_t *offsets = nullptr;
    tgpt_capture_packets(get(), &packets, &offsets, why.raw());
    if (why.code() != TGPT_OK) return why;
    const std::size_t n = size();
    return ragged({packets, static_cast<std::size_t>(offsets[n])}, {offsets, n + 1});
  }
  /** Who talked to whom in flow `i`. */
  result<flow_info> info(std::size_t i) const {
    error why;
    flow_info out{};
    tgpt_capture_flow(get(), i, &out, why.raw());
    if (why.code() != TGPT_OK) return why;
    return out;
  }
  /** What the reader should know, in memory of this capture; empty where there is nothing. */
  std::string_view warning() const noexcept { return detail::text(tgpt_capture_warning(get())); }

 private:
  static result<capture> open(const std::string &path, const tgpt_config *settings) {
    error why;
    tgpt_capture *raw = nullptr;
    tgpt_capture_open(path.c_str(), settings, &raw, why.raw());
    return detail::made<capture>(raw, why);
  }
};

/** Packets to tokens and back. */
class quantizer : public detail::handle<tgpt_quantizer, tgpt_quantizer_free> {
 public:
  using handle::handle;
  static result<quantizer> open(const context &parent, const std::string &bundle) {
    error why;
    tgpt_quantizer *raw = nullptr;
    tgpt_quantizer_open(parent.get(), bundle.c_str(), &raw, why.raw());
    return detail::made<quantizer>(raw, why);
  }

  std::uint32_t n_tokens() const noexcept { return tgpt_quantizer_n_tokens(get()); }
  /** As many tokens as packets. */
  result<void> encode(span<const packet> packets, span<std::uint32_t> tokens) const {
    if (tokens.size() != packets.size()) return detail::wrong_size("tokens", tokens.size(), packets.size());
    error why;
    tgpt_quantizer_encode(get(), packets.data(), packets.size(), tokens.data(), why.raw());
    return detail::done(why);
  }
  /** As many packets as tokens. */
  result<void> decode(span<const std::uint32_t> tokens, span<packet> packets) const {
    if (packets.size() != tokens.size()) return detail::wrong_size("packets", packets.size(), tokens.size());
    error why;
    tgpt_quantizer_decode(get(), tokens.data(), tokens.size(), packets.data(), why.raw());
    return detail::done(why);
  }
  /** The same, each packet drawn from those that its token stands for. */
  result<void> decode_sampled(span<const std::uint32_t> tokens, std::uint64_t seed, std::uint64_t stream,
                              span<packet> packets) const {
    if (packets.size() != tokens.size()) return detail::wrong_size("packets", packets.size(), tokens.size());
    error why;
    tgpt_quantizer_decode_sampled(get(), tokens.data(), tokens.size(), seed, stream, packets.data(), why.raw());
    return detail::done(why);
  }
};

/** Tells what a flow is. */
class classifier : public detail::handle<tgpt_classifier, tgpt_classifier_free> {
 public:
  using handle::handle;
  static result<classifier> open(const context &parent, const std::string &bundle) {
    error why;
    tgpt_classifier *raw = nullptr;
    tgpt_classifier_open(parent.get(), bundle.c_str(), &raw, why.raw());
    return detail::made<classifier>(raw, why);
  }

  std::string_view engine() const noexcept { return detail::text(tgpt_classifier_engine(get())); }
  std::uint32_t n_labels() const noexcept { return tgpt_classifier_n_labels(get()); }
  /** In memory of this classifier; empty where there is no such label, as for TGPT_UNKNOWN. */
  std::string_view label(std::uint32_t id) const noexcept { return detail::text(tgpt_classifier_label(get(), id)); }
  std::uint32_t embedding_dim() const noexcept { return tgpt_classifier_embedding_dim(get()); }

  /** `labels`: one per flow. `scores`: empty, or n_labels() per flow. */
  result<void> classify(worker &scratch, const ragged &flows, span<std::uint32_t> labels,
                        span<float> scores = {}) const {
    error why = detail::check(flows);
    if (why.code() != TGPT_OK) return why;
    if (labels.size() != flows.size()) return detail::wrong_size("labels", labels.size(), flows.size());
    const std::size_t n_scores = flows.size() * n_labels();
    if (*this && !scores.empty() && scores.size() != n_scores) {
      return detail::wrong_size("scores", scores.size(), n_scores);
    }
    tgpt_classify(get(), scratch.get(), flows.packets().data(), flows.offsets().data(), flows.size(), labels.data(),
                  scores.empty() ? nullptr : scores.data(), why.raw());
    return detail::done(why);
  }
  /** `embeddings`: embedding_dim() per flow. */
  result<void> embed(worker &scratch, const ragged &flows, span<float> embeddings) const {
    error why = detail::check(flows);
    if (why.code() != TGPT_OK) return why;
    const std::size_t n = flows.size() * embedding_dim();
    if (*this && embeddings.size() != n) return detail::wrong_size("embeddings", embeddings.size(), n);
    tgpt_embed(get(), scratch.get(), flows.packets().data(), flows.offsets().data(), flows.size(), embeddings.data(),
               why.raw());
    return detail::done(why);
  }
};

/** How flows are drawn: every field at its default until it is set. */
struct sampling : tgpt_sampling {
  sampling() noexcept : tgpt_sampling(TGPT_SAMPLING_INIT) {}
};

/** Makes flows like those it was trained on. */
class generator : public detail::handle<tgpt_generator, tgpt_generator_free> {
 public:
  using handle::handle;
  static result<generator> open(const context &parent, const std::string &bundle) {
    error why;
    tgpt_generator *raw = nullptr;
    tgpt_generator_open(parent.get(), bundle.c_str(), &raw, why.raw());
    return detail::made<generator>(raw, why);
  }

  std::string_view engine() const noexcept { return detail::text(tgpt_generator_engine(get())); }
  std::uint32_t n_classes() const noexcept { return tgpt_generator_n_classes(get()); }
  /** In memory of this generator; empty where there is no such class. */
  std::string_view class_name(std::uint32_t id) const noexcept { return detail::text(tgpt_generator_class(get(), id)); }
  std::uint32_t max_packets() const noexcept { return tgpt_generator_max_packets(get()); }

  result<rows> generate(worker &scratch, const tgpt_sampling &how, std::size_t n_flows) const {
    return in_parts(how, n_flows, [&](const tgpt_sampling &part, std::size_t, std::size_t n, packet *packets,
                                      std::size_t cap, std::uint64_t *offsets, error &why) {
      tgpt_generate(get(), scratch.get(), &part, n, packets, cap, offsets, nullptr, why.raw());
    });
  }
  /** Flows that begin as those of `begun` do, whole: of each the packets given, then those drawn. */
  result<rows> continue_flows(worker &scratch, const tgpt_sampling &how, const ragged &begun) const {
    error wrong = detail::check(begun);
    if (wrong.code() != TGPT_OK) return wrong;
    std::vector<std::uint64_t> at;
    return in_parts(how, begun.size(), [&](const tgpt_sampling &part, std::size_t first, std::size_t n, packet *packets,
                                           std::size_t cap, std::uint64_t *offsets, error &why) {
      at.assign(n + 1, 0);
      for (std::size_t i = 1; i <= n; ++i) at[i] = begun.offsets()[first + i] - begun.offsets()[first];
      const packet *from = n == 0 ? nullptr : begun.packets().data() + begun.offsets()[first];
      tgpt_continue(get(), scratch.get(), &part, from, at.data(), n, packets, cap, offsets, nullptr, why.raw());
    });
  }
  /** How unlike the traffic that it knows flows of this class are, or of any with TGPT_UNKNOWN. `nll`: one per flow. */
  result<void> score(worker &scratch, std::uint32_t class_id, const ragged &flows, span<float> nll) const {
    error why = detail::check(flows);
    if (why.code() != TGPT_OK) return why;
    if (nll.size() != flows.size()) return detail::wrong_size("nll", nll.size(), flows.size());
    tgpt_score(get(), scratch.get(), class_id, flows.packets().data(), flows.offsets().data(), flows.size(), nll.data(),
               why.raw());
    return detail::done(why);
  }

 private:
  /** Room for the longest flows there can be, so that none is drawn twice; in parts, so that it stays small. */
  template <typename Draw>
  result<rows> in_parts(const tgpt_sampling &how, std::size_t n_flows, Draw draw) const {
    rows out;
    out.offsets_.push_back(0);
    std::vector<std::uint64_t> offsets;
    tgpt_sampling part = how;
    do {
      const std::size_t first = out.size(), n = std::min<std::size_t>(n_flows - first, 4096);
      const std::size_t begin = out.packets_.size();
      offsets.resize(n + 1);
      out.packets_.resize(begin + n * max_packets());
      error why;
      draw(part, first, n, out.packets_.data() + begin, out.packets_.size() - begin, offsets.data(), why);
      if (why.code() != TGPT_OK) return why;
      for (std::size_t i = 1; i <= n; ++i) out.offsets_.push_back(begin + offsets[i]);
      out.packets_.resize(begin + static_cast<std::size_t>(offsets[n]));
      part.first_flow += n;
    } while (out.size() < n_flows);
    return out;
  }
};

/** The streaming table of a data path: one per core. */
class flows : public detail::handle<tgpt_flows, tgpt_flows_free> {
 public:
  using handle::handle;
  static result<flows> make(const classifier &model) { return make(model, nullptr); }
  static result<flows> make(const classifier &model, const config &settings) {
    const error why = settings.check();
    return why.code() != TGPT_OK ? result<flows>(why) : make(model, settings.get());
  }

  result<void> push(span<const observation> packets) {
    error why;
    tgpt_flows_push(get(), packets.data(), packets.size(), why.raw());
    return detail::done(why);
  }
  /** `frames`: where the bytes of each begin; `infos`: one per frame. `link_type` 1 is Ethernet. */
  result<void> push_frames(std::uint32_t link_type, span<const std::uint8_t *const> frames,
                           span<const frame_info> infos) {
    if (infos.size() != frames.size()) return detail::wrong_size("infos", infos.size(), frames.size());
    error why;
    tgpt_flows_push_frames(get(), link_type, frames.data(), infos.data(), infos.size(), why.raw());
    return detail::done(why);
  }
  /** Number of flows that wait for a verdict. */
  std::size_t due() const noexcept { return tgpt_flows_due(get()); }
  /** The part of `out` that was filled; where that is not all of it, no flow is due any more. `now_ns` 0: the packets'
   * clock. */
  result<span<verdict>> poll(span<verdict> out, std::uint64_t now_ns = 0) {
    error why;
    std::size_t n = 0;
    tgpt_flows_poll(get(), now_ns, out.data(), out.size(), &n, why.raw());
    if (why.code() != TGPT_OK) return why;
    return out.first(n);
  }
  /** The epoch that verdicts of `model` will carry. May run while another thread pushes. */
  result<std::uint32_t> swap(const classifier &model) const {
    error why;
    std::uint32_t epoch = 0;
    tgpt_flows_swap(get(), model.get(), &epoch, why.raw());
    if (why.code() != TGPT_OK) return why;
    return epoch;
  }
  result<void> flush() {
    error why;
    tgpt_flows_flush(get(), why.raw());
    return detail::done(why);
  }
  /** A JSON object. May run while another thread pushes. */
  result<std::string> stats() const {
    std::string json(1024, '\0');
    for (;;) {
      error why;
      std::size_t needed = 0;
      tgpt_flows_stats(get(), json.data(), json.size(), &needed, why.raw());
      if (why.code() == TGPT_OK) {
        json.resize(needed - 1);
        return json;
      }
      if (why.code() != TGPT_E_NOSPACE) return why;
      /* Numbers may have grown by the next call. */
      json.resize(needed + 64);
    }
  }

 private:
  static result<flows> make(const classifier &model, const tgpt_config *settings) {
    error why;
    tgpt_flows *raw = nullptr;
    tgpt_flows_new(model.get(), settings, &raw, why.raw());
    return detail::made<flows>(raw, why);
  }
};

}  // namespace trafficgpt

#endif /* TRAFFICGPT_HPP */
