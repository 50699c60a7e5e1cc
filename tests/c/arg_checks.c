/* One check per bad argument of every call: the status, a message that names the argument, and nothing written. */
#include "check.h"

static tgpt_error e;

/* Everything a refused call might wrongly write to. */
static struct {
  void *handle;
  const void *borrowed[2];
  uint32_t labels[4], tokens[4];
  float values[256];
  tgpt_packet packets[64];
  uint64_t offsets[4];
  size_t needed;
  tgpt_flow_info info;
  tgpt_verdict verdicts[4];
  char json[64];
} out, before;

static void prepare(void) {
  memset(&out, 0xA5, sizeof out);
  memcpy(&before, &out, sizeof out);
  memset(&e, 0xA5, sizeof e);
}

static void refused(tgpt_status got, tgpt_status expected, const char *named, const char *call, int line) {
  if (got != expected || e.code != got || strstr(e.msg, named) == NULL) {
    printf("line %d: %s: status %d, code %d, \"%.100s\"; expected %d and \"%s\"\n", line, call, (int)got, (int)e.code,
           e.msg, (int)expected, named);
    ++failures;
  }
  if (memcmp(&out, &before, sizeof out) != 0) {
    printf("line %d: %s: wrote to its output\n", line, call);
    ++failures;
  }
}
#define REFUSES(expected, named, call) (prepare(), refused((call), (expected), (named), #call, __LINE__))
#define INVALID(named, call) REFUSES(TGPT_E_INVALID, named, call)

/* Pointers that no call may follow. */
#define OUT(type) ((type **)(void *)&out.handle)
#define ODD(type, pointer) ((type *)(void *)((char *)(pointer) + 1))

static const tgpt_packet good[3] = {{100, 0.0f}, {-1400, 20.0f}, {60, 3.5f}};
static const uint64_t two[3] = {0, 1, 3};

static void library(void) {
  CHECK(tgpt_abi() == TGPT_ABI);
  CHECK(strcmp(tgpt_version(), TGPT_VERSION) == 0);
  CHECK(strcmp(tgpt_status_str(TGPT_OK), "success") == 0);
  CHECK(strcmp(tgpt_status_str(12345), "unknown status") == 0);
}

static void configs(void) {
  tgpt_config *config = NULL;
  MUST(tgpt_config_new(&config, NULL));
  INVALID("out is NULL", tgpt_config_new(NULL, &e));
  INVALID("config is NULL", tgpt_config_set(NULL, "engine", "auto", &e));
  INVALID("key is NULL", tgpt_config_set(config, NULL, "auto", &e));
  INVALID("value is NULL", tgpt_config_set(config, "engine", NULL, &e));
  INVALID("key is not UTF-8", tgpt_config_set(config, "\xff", "auto", &e));
  INVALID("value is not UTF-8", tgpt_config_set(config, "engine", "\xff", &e));
  INVALID("no.such.key", tgpt_config_set(config, "no.such.key", "1", &e));
  INVALID("no setting", tgpt_config_set(config, "", "1", &e));
  INVALID("engine", tgpt_config_set(config, "engine", "gpu", &e));
  INVALID("threads", tgpt_config_set(config, "threads", "0", &e));
  INVALID("threads", tgpt_config_set(config, "threads", "-1", &e));
  INVALID("meter.tunnel", tgpt_config_set(config, "meter.tunnel", "sideways", &e));
  CHECK(tgpt_config_set(NULL, NULL, NULL, NULL) == TGPT_E_INVALID);
  tgpt_config_free(config);
  tgpt_config_free(NULL);
}

static void contexts(const tgpt_context *other) {
  struct {
    tgpt_hooks hooks;
    uint64_t newer[2];
  } larger;
  tgpt_hooks hooks;
  memset(&hooks, 0, sizeof hooks);
  INVALID("out is NULL", tgpt_context_new(NULL, NULL, NULL, &e));
  INVALID("out is not aligned", tgpt_context_new(NULL, NULL, ODD(tgpt_context *, &out.handle), &e));
  INVALID("config", tgpt_context_new((const tgpt_config *)(const void *)other, NULL, OUT(tgpt_context), &e));
  INVALID("type_size", tgpt_context_new(NULL, &hooks, OUT(tgpt_context), &e));
  hooks.type_size = sizeof hooks - 1;
  INVALID("type_size", tgpt_context_new(NULL, &hooks, OUT(tgpt_context), &e));
  hooks.type_size = (size_t)-1;
  INVALID("type_size", tgpt_context_new(NULL, &hooks, OUT(tgpt_context), &e));
  hooks.type_size = sizeof hooks;
  hooks.reserved[3] = 1;
  INVALID("hooks.reserved", tgpt_context_new(NULL, &hooks, OUT(tgpt_context), &e));
  /* A newer caller: fine while it does not use what this library does not know. */
  memset(&larger, 0, sizeof larger);
  larger.hooks.type_size = sizeof larger;
  larger.newer[1] = 1;
  INVALID("hooks", tgpt_context_new(NULL, &larger.hooks, OUT(tgpt_context), &e));
  larger.newer[1] = 0;
  {
    tgpt_context *made = NULL;
    MUST(tgpt_context_new(NULL, &larger.hooks, &made, &e));
    tgpt_context_free(made);
  }
  INVALID("hooks is not aligned", tgpt_context_new(NULL, ODD(tgpt_hooks, &larger), OUT(tgpt_context), &e));
  tgpt_context_free(NULL);
}

static void workers(const tgpt_context *context, tgpt_worker *worker) {
  INVALID("context is NULL", tgpt_worker_new(NULL, OUT(tgpt_worker), &e));
  INVALID("out is NULL", tgpt_worker_new(context, NULL, &e));
  INVALID("context", tgpt_worker_new((const tgpt_context *)(void *)worker, OUT(tgpt_worker), &e));
  INVALID("context", tgpt_worker_new(ODD(const tgpt_context, worker), OUT(tgpt_worker), &e));
  tgpt_worker_free(NULL);
}

static void bundles(const tgpt_context *context, tgpt_worker *worker, const char *bundle, const char *no_bundle) {
  const tgpt_context *wrong = (const tgpt_context *)(void *)worker;
  INVALID("context is NULL", tgpt_quantizer_open(NULL, bundle, OUT(tgpt_quantizer), &e));
  INVALID("context", tgpt_quantizer_open(wrong, bundle, OUT(tgpt_quantizer), &e));
  INVALID("bundle is NULL", tgpt_quantizer_open(context, NULL, OUT(tgpt_quantizer), &e));
  INVALID("bundle is empty", tgpt_quantizer_open(context, "", OUT(tgpt_quantizer), &e));
  INVALID("out is NULL", tgpt_quantizer_open(context, bundle, NULL, &e));
  REFUSES(TGPT_E_IO, "no/such", tgpt_quantizer_open(context, "no/such", OUT(tgpt_quantizer), &e));
  REFUSES(TGPT_E_FORMAT, no_bundle, tgpt_quantizer_open(context, no_bundle, OUT(tgpt_quantizer), &e));

  INVALID("context is NULL", tgpt_classifier_open(NULL, bundle, OUT(tgpt_classifier), &e));
  INVALID("context", tgpt_classifier_open(wrong, bundle, OUT(tgpt_classifier), &e));
  INVALID("bundle is NULL", tgpt_classifier_open(context, NULL, OUT(tgpt_classifier), &e));
  INVALID("bundle is empty", tgpt_classifier_open(context, "", OUT(tgpt_classifier), &e));
  INVALID("out is NULL", tgpt_classifier_open(context, bundle, NULL, &e));
  REFUSES(TGPT_E_IO, "no/such", tgpt_classifier_open(context, "no/such", OUT(tgpt_classifier), &e));
  REFUSES(TGPT_E_FORMAT, no_bundle, tgpt_classifier_open(context, no_bundle, OUT(tgpt_classifier), &e));

  INVALID("context is NULL", tgpt_generator_open(NULL, bundle, OUT(tgpt_generator), &e));
  INVALID("context", tgpt_generator_open(wrong, bundle, OUT(tgpt_generator), &e));
  INVALID("bundle is NULL", tgpt_generator_open(context, NULL, OUT(tgpt_generator), &e));
  INVALID("bundle is empty", tgpt_generator_open(context, "", OUT(tgpt_generator), &e));
  INVALID("out is NULL", tgpt_generator_open(context, bundle, NULL, &e));
  REFUSES(TGPT_E_IO, "no/such", tgpt_generator_open(context, "no/such", OUT(tgpt_generator), &e));
  REFUSES(TGPT_E_FORMAT, no_bundle, tgpt_generator_open(context, no_bundle, OUT(tgpt_generator), &e));
}

static void quantizers(const tgpt_quantizer *quantizer, const tgpt_context *context) {
  const tgpt_quantizer *wrong = (const tgpt_quantizer *)(const void *)context;
  const uint32_t k = tgpt_quantizer_n_tokens(quantizer), tokens[2] = {0, 1};
  uint32_t bad[2];
  tgpt_packet late[2] = {{100, 0.0f}, {100, -1.0f}};
  bad[0] = 0;
  bad[1] = k;
  CHECK(k > 0);
  CHECK(tgpt_quantizer_n_tokens(NULL) == 0 && tgpt_quantizer_n_tokens(wrong) == 0);

  INVALID("quantizer is NULL", tgpt_quantizer_encode(NULL, good, 3, out.tokens, &e));
  INVALID("quantizer", tgpt_quantizer_encode(wrong, good, 3, out.tokens, &e));
  INVALID("packets is NULL", tgpt_quantizer_encode(quantizer, NULL, 3, out.tokens, &e));
  INVALID("packets is not aligned", tgpt_quantizer_encode(quantizer, ODD(const tgpt_packet, good), 1, out.tokens, &e));
  INVALID("tokens is NULL", tgpt_quantizer_encode(quantizer, good, 3, NULL, &e));
  INVALID("packets", tgpt_quantizer_encode(quantizer, good, (size_t)-1, out.tokens, &e));
  INVALID("packet 1", tgpt_quantizer_encode(quantizer, late, 2, out.tokens, &e));

  INVALID("quantizer is NULL", tgpt_quantizer_decode(NULL, tokens, 2, out.packets, &e));
  INVALID("quantizer", tgpt_quantizer_decode(wrong, tokens, 2, out.packets, &e));
  INVALID("tokens is NULL", tgpt_quantizer_decode(quantizer, NULL, 2, out.packets, &e));
  INVALID("packets is NULL", tgpt_quantizer_decode(quantizer, tokens, 2, NULL, &e));
  INVALID("tokens", tgpt_quantizer_decode(quantizer, tokens, (size_t)-1 / 4 + 2, out.packets, &e));
  INVALID("token 1", tgpt_quantizer_decode(quantizer, bad, 2, out.packets, &e));

#define SAMPLED(quantizer, tokens, n, packets) tgpt_quantizer_decode_sampled(quantizer, tokens, n, 1, 2, packets, &e)
  INVALID("quantizer is NULL", SAMPLED(NULL, tokens, 2, out.packets));
  INVALID("quantizer", SAMPLED(wrong, tokens, 2, out.packets));
  INVALID("tokens is NULL", SAMPLED(quantizer, NULL, 2, out.packets));
  INVALID("packets is NULL", SAMPLED(quantizer, tokens, 2, NULL));
  INVALID("tokens", SAMPLED(quantizer, tokens, (size_t)-1 / 4 + 2, out.packets));
  INVALID("token 1", SAMPLED(quantizer, bad, 2, out.packets));
  tgpt_quantizer_free(NULL);
}

static void classifiers(const tgpt_classifier *classifier, tgpt_worker *worker, const tgpt_context *context) {
  const tgpt_classifier *wrong = (const tgpt_classifier *)(const void *)context;
  tgpt_worker *no_worker = (tgpt_worker *)(void *)(size_t)context;
  const uint64_t late[3] = {1, 1, 3}, falls[3] = {0, 2, 1}, far[3] = {0, 1, UINT64_MAX}, empty[3] = {0, 0, 3};
  tgpt_packet never[3];
  const uint32_t n = tgpt_classifier_n_labels(classifier), dim = tgpt_classifier_embedding_dim(classifier);
  memcpy(never, good, sizeof never);
  never[2].ipt_us = -0.5f;
  CHECK(n > 0 && 2 * n <= 256 && dim > 0 && 2 * dim <= 256);
  CHECK(tgpt_classifier_n_labels(NULL) == 0 && tgpt_classifier_n_labels(wrong) == 0);
  CHECK(tgpt_classifier_embedding_dim(NULL) == 0 && tgpt_classifier_embedding_dim(wrong) == 0);
  CHECK(tgpt_classifier_engine(NULL) == NULL && tgpt_classifier_engine(wrong) == NULL);
  CHECK(tgpt_classifier_label(NULL, 0) == NULL && tgpt_classifier_label(wrong, 0) == NULL);
  CHECK(tgpt_classifier_label(classifier, n) == NULL);

  INVALID("classifier is NULL", tgpt_classify(NULL, worker, good, two, 2, out.labels, out.values, &e));
  INVALID("classifier", tgpt_classify(wrong, worker, good, two, 2, out.labels, out.values, &e));
  INVALID("worker is NULL", tgpt_classify(classifier, NULL, good, two, 2, out.labels, out.values, &e));
  INVALID("worker", tgpt_classify(classifier, no_worker, good, two, 2, out.labels, out.values, &e));
  INVALID("packets is NULL", tgpt_classify(classifier, worker, NULL, two, 2, out.labels, out.values, &e));
  INVALID("offsets is NULL", tgpt_classify(classifier, worker, good, NULL, 2, out.labels, out.values, &e));
  INVALID("offsets must begin", tgpt_classify(classifier, worker, good, late, 2, out.labels, out.values, &e));
  INVALID("offsets must begin", tgpt_classify(classifier, worker, good, late, 0, out.labels, out.values, &e));
  INVALID("offsets[2]", tgpt_classify(classifier, worker, good, falls, 2, out.labels, out.values, &e));
  INVALID("packets", tgpt_classify(classifier, worker, good, far, 2, out.labels, out.values, &e));
  INVALID("flow 0", tgpt_classify(classifier, worker, good, empty, 2, out.labels, out.values, &e));
  INVALID("flow 1", tgpt_classify(classifier, worker, never, two, 2, out.labels, out.values, &e));
  INVALID("n_flows", tgpt_classify(classifier, worker, good, two, (size_t)-1, out.labels, out.values, &e));
  INVALID("offsets", tgpt_classify(classifier, worker, good, two, (size_t)-1 / 8, out.labels, out.values, &e));
  INVALID("labels is NULL", tgpt_classify(classifier, worker, good, two, 2, NULL, out.values, &e));
  INVALID("scores is not aligned",
          tgpt_classify(classifier, worker, good, two, 2, out.labels, ODD(float, out.values), &e));
  CHECK(tgpt_classify(NULL, NULL, NULL, NULL, 0, NULL, NULL, NULL) == TGPT_E_INVALID);

  INVALID("classifier is NULL", tgpt_embed(NULL, worker, good, two, 2, out.values, &e));
  INVALID("classifier", tgpt_embed(wrong, worker, good, two, 2, out.values, &e));
  INVALID("worker is NULL", tgpt_embed(classifier, NULL, good, two, 2, out.values, &e));
  INVALID("worker", tgpt_embed(classifier, no_worker, good, two, 2, out.values, &e));
  INVALID("packets is NULL", tgpt_embed(classifier, worker, NULL, two, 2, out.values, &e));
  INVALID("offsets is NULL", tgpt_embed(classifier, worker, good, NULL, 2, out.values, &e));
  INVALID("offsets must begin", tgpt_embed(classifier, worker, good, late, 2, out.values, &e));
  INVALID("offsets[2]", tgpt_embed(classifier, worker, good, falls, 2, out.values, &e));
  INVALID("packets", tgpt_embed(classifier, worker, good, far, 2, out.values, &e));
  INVALID("flow 0", tgpt_embed(classifier, worker, good, empty, 2, out.values, &e));
  INVALID("flow 1", tgpt_embed(classifier, worker, never, two, 2, out.values, &e));
  INVALID("n_flows", tgpt_embed(classifier, worker, good, two, (size_t)-1, out.values, &e));
  INVALID("embeddings is NULL", tgpt_embed(classifier, worker, good, two, 2, NULL, &e));
  tgpt_classifier_free(NULL);
}

static void generators(const tgpt_generator *generator, tgpt_worker *worker, const tgpt_context *context) {
  const tgpt_generator *wrong = (const tgpt_generator *)(const void *)context;
  const uint64_t empty[3] = {0, 0, 3}, falling[3] = {0, 3, 2}, late[3] = {1, 2, 3};
  const tgpt_packet no_packet[3] = {{100, 0.0f}, {100, -1.0f}, {100, 0.0f}};
  uint32_t no_token[2] = {UINT32_MAX, 0};
  tgpt_worker *no_worker = (tgpt_worker *)(void *)(size_t)context;
  const tgpt_sampling init = TGPT_SAMPLING_INIT;
  tgpt_sampling s = init;
  struct {
    tgpt_sampling sampling;
    uint64_t newer;
  } larger;
  CHECK(tgpt_generator_n_classes(NULL) == 0 && tgpt_generator_n_classes(wrong) == 0);
  CHECK(tgpt_generator_max_packets(NULL) == 0 && tgpt_generator_max_packets(wrong) == 0);
  CHECK(tgpt_generator_engine(NULL) == NULL && tgpt_generator_engine(wrong) == NULL);
  CHECK(tgpt_generator_class(NULL, 0) == NULL && tgpt_generator_class(wrong, 0) == NULL);

#define GENERATE(g, w, s, n, packets, cap, offsets, needed) tgpt_generate(g, w, s, n, packets, cap, offsets, needed, &e)
#define WITH(sampling) GENERATE(generator, worker, sampling, 2, out.packets, 64, out.offsets, &out.needed)
  s.max_packets = 4;
  INVALID("generator is NULL", GENERATE(NULL, worker, &s, 2, out.packets, 64, out.offsets, &out.needed));
  INVALID("generator", GENERATE(wrong, worker, &s, 2, out.packets, 64, out.offsets, &out.needed));
  INVALID("worker is NULL", GENERATE(generator, NULL, &s, 2, out.packets, 64, out.offsets, &out.needed));
  INVALID("worker", GENERATE(generator, no_worker, &s, 2, out.packets, 64, out.offsets, &out.needed));
  INVALID("sampling is NULL", WITH(NULL));
  INVALID("packets is NULL", GENERATE(generator, worker, &s, 2, NULL, 64, out.offsets, &out.needed));
  INVALID("packets", GENERATE(generator, worker, &s, 2, out.packets, (size_t)-1, out.offsets, &out.needed));
  INVALID("offsets is NULL", GENERATE(generator, worker, &s, 2, out.packets, 64, NULL, &out.needed));
  INVALID("needed is not aligned",
          GENERATE(generator, worker, &s, 2, out.packets, 64, out.offsets, ODD(size_t, &out.needed)));
  INVALID("n_flows", GENERATE(generator, worker, &s, (size_t)-1, out.packets, 64, out.offsets, &out.needed));
  INVALID("offsets", GENERATE(generator, worker, &s, (size_t)-1 / 8, out.packets, 64, out.offsets, &out.needed));
  INVALID("flows", GENERATE(generator, worker, &s, (size_t)1 << 30, out.packets, 64, out.offsets, &out.needed));

#define FIELD(named, field, value) (s = init, s.field = (value), (void)0, INVALID(named, WITH(&s)))
  FIELD("type_size", type_size, 0);
  FIELD("type_size", type_size, sizeof s - 8);
  FIELD("type_size", type_size, (size_t)-1);
  FIELD("class", class_id, tgpt_generator_n_classes(generator));
  FIELD("top_p", top_p, 0.0f);
  FIELD("top_p", top_p, 1.5f);
  FIELD("top_p", top_p, -1.0f);
  FIELD("temperature", temperature, -1.0f);
  FIELD("temperature", temperature, 1e9f);
  FIELD("flags", flags, 2);
  FIELD("sampling.reserved", reserved[0], 1);
  FIELD("sampling.reserved", reserved[1], 1);
  FIELD("min_packets", min_packets, tgpt_generator_max_packets(generator) + 1);
  FIELD("sampling.banned is NULL", n_banned, 1);
#define BANNED(named, tokens, n) (s = init, s.banned = (tokens), s.n_banned = (n), INVALID(named, WITH(&s)))
  BANNED("token 4294967295 is banned", no_token, 1);
  BANNED("banned is not aligned", ODD(uint32_t, no_token), 1);
  s = init;
  s.max_packets = 4;
  s.min_packets = 5;
  INVALID("min_packets", WITH(&s));
  memset(&larger, 0, sizeof larger);
  larger.sampling = init;
  larger.sampling.type_size = sizeof larger;
  larger.newer = 1;
  INVALID("sampling", WITH(&larger.sampling));
  CHECK(tgpt_generate(NULL, NULL, NULL, 0, NULL, 0, NULL, NULL, NULL) == TGPT_E_INVALID);

#define CONTINUE(g, w, s, begun, at, n, packets, cap, offsets, needed) \
  tgpt_continue(g, w, s, begun, at, n, packets, cap, offsets, needed, &e)
#define BEGUN(begun, at, n) CONTINUE(generator, worker, &s, begun, at, n, out.packets, 64, out.offsets, &out.needed)
  s = init;
  s.max_packets = 4;
  INVALID("generator is NULL", CONTINUE(NULL, worker, &s, good, two, 2, out.packets, 64, out.offsets, &out.needed));
  INVALID("generator", CONTINUE(wrong, worker, &s, good, two, 2, out.packets, 64, out.offsets, &out.needed));
  INVALID("worker is NULL", CONTINUE(generator, NULL, &s, good, two, 2, out.packets, 64, out.offsets, &out.needed));
  INVALID("worker", CONTINUE(generator, no_worker, &s, good, two, 2, out.packets, 64, out.offsets, &out.needed));
  INVALID("sampling is NULL",
          CONTINUE(generator, worker, NULL, good, two, 2, out.packets, 64, out.offsets, &out.needed));
  INVALID("packets is NULL", CONTINUE(generator, worker, &s, good, two, 2, NULL, 64, out.offsets, &out.needed));
  INVALID("offsets is NULL", CONTINUE(generator, worker, &s, good, two, 2, out.packets, 64, NULL, &out.needed));
  INVALID("needed is not aligned",
          CONTINUE(generator, worker, &s, good, two, 2, out.packets, 64, out.offsets, ODD(size_t, &out.needed)));
  INVALID("packets is NULL", BEGUN(NULL, two, 2));
  INVALID("packets is not aligned", BEGUN(ODD(tgpt_packet, good), two, 2));
  INVALID("offsets is NULL", BEGUN(good, NULL, 2));
  INVALID("offsets", BEGUN(good, falling, 2));
  INVALID("offsets", BEGUN(good, late, 2));
  INVALID("n_flows", BEGUN(good, two, (size_t)-1));
  INVALID("flow 1", BEGUN(no_packet, two, 2));
  s.max_packets = 1;
  INVALID("flow 1 has 2 packets already", BEGUN(good, two, 2));
  s.class_id = tgpt_generator_n_classes(generator);
  INVALID("class", BEGUN(good, two, 2));
  CHECK(tgpt_continue(NULL, NULL, NULL, NULL, NULL, 0, NULL, 0, NULL, NULL, NULL) == TGPT_E_INVALID);

#define SCORE(g, w, class_id, packets, offsets, n, nll) tgpt_score(g, w, class_id, packets, offsets, n, nll, &e)
  INVALID("generator is NULL", SCORE(NULL, worker, 0, good, two, 2, out.values));
  INVALID("generator", SCORE(wrong, worker, 0, good, two, 2, out.values));
  INVALID("worker is NULL", SCORE(generator, NULL, 0, good, two, 2, out.values));
  INVALID("worker", SCORE(generator, no_worker, 0, good, two, 2, out.values));
  INVALID("class", SCORE(generator, worker, tgpt_generator_n_classes(generator), good, two, 2, out.values));
  INVALID("packets is NULL", SCORE(generator, worker, 0, NULL, two, 2, out.values));
  INVALID("offsets is NULL", SCORE(generator, worker, 0, good, NULL, 2, out.values));
  INVALID("nll is NULL", SCORE(generator, worker, 0, good, two, 2, NULL));
  INVALID("nll is not aligned", SCORE(generator, worker, 0, good, two, 2, ODD(float, out.values)));
  INVALID("flow 0", SCORE(generator, worker, 0, good, empty, 2, out.values));
  INVALID("n_flows", SCORE(generator, worker, 0, good, two, (size_t)-1, out.values));
  tgpt_generator_free(NULL);
}

static void captures(const tgpt_context *context, const char *path, const char *no_capture) {
  const tgpt_capture *wrong = (const tgpt_capture *)(const void *)context;
  const tgpt_config *no_config = (const tgpt_config *)(const void *)context;
  tgpt_capture *capture = NULL;
  const tgpt_packet **packets = (const tgpt_packet **)(void *)&out.borrowed[0];
  const uint64_t **offsets = (const uint64_t **)(void *)&out.borrowed[1];
  MUST(tgpt_capture_open(path, NULL, &capture, &e));
  INVALID("path is NULL", tgpt_capture_open(NULL, NULL, OUT(tgpt_capture), &e));
  INVALID("path is empty", tgpt_capture_open("", NULL, OUT(tgpt_capture), &e));
  INVALID("config", tgpt_capture_open(path, no_config, OUT(tgpt_capture), &e));
  INVALID("out is NULL", tgpt_capture_open(path, NULL, NULL, &e));
  REFUSES(TGPT_E_IO, "no/such", tgpt_capture_open("no/such", NULL, OUT(tgpt_capture), &e));
  REFUSES(TGPT_E_FORMAT, no_capture, tgpt_capture_open(no_capture, NULL, OUT(tgpt_capture), &e));

  CHECK(tgpt_capture_n_flows(NULL) == 0 && tgpt_capture_n_flows(wrong) == 0);
  CHECK(tgpt_capture_warning(NULL) == NULL && tgpt_capture_warning(wrong) == NULL);
  INVALID("capture is NULL", tgpt_capture_packets(NULL, packets, offsets, &e));
  INVALID("capture", tgpt_capture_packets(wrong, packets, offsets, &e));
  INVALID("packets is NULL", tgpt_capture_packets(capture, NULL, offsets, &e));
  INVALID("offsets is NULL", tgpt_capture_packets(capture, packets, NULL, &e));
  INVALID("capture is NULL", tgpt_capture_flow(NULL, 0, &out.info, &e));
  INVALID("capture", tgpt_capture_flow(wrong, 0, &out.info, &e));
  INVALID("flow", tgpt_capture_flow(capture, tgpt_capture_n_flows(capture), &out.info, &e));
  INVALID("out is NULL", tgpt_capture_flow(capture, 0, NULL, &e));
  tgpt_capture_free(capture);
  tgpt_capture_free(NULL);
}

static void tables(const tgpt_classifier *classifier, const tgpt_context *context) {
  const tgpt_classifier *wrong = (const tgpt_classifier *)(const void *)context;
  const tgpt_config *no_config = (const tgpt_config *)(const void *)context;
  tgpt_flows *no_flows = (tgpt_flows *)(void *)(size_t)context;
  static const uint8_t bytes[64];
  const uint8_t *frames[2] = {bytes, NULL};
  const tgpt_frame_info infos[2] = {{1, 64, 64}, {1, 1, 64}};
  tgpt_observation two_packets[2];
  tgpt_config *config = NULL;
  tgpt_flows *flows = NULL;
  size_t n = 99;
  memset(two_packets, 0, sizeof two_packets);
  two_packets[1].reserved[9] = 1;
  MUST(tgpt_config_new(&config, &e));
  MUST(tgpt_flows_new(classifier, NULL, &flows, &e));

  INVALID("classifier is NULL", tgpt_flows_new(NULL, NULL, OUT(tgpt_flows), &e));
  INVALID("classifier", tgpt_flows_new(wrong, NULL, OUT(tgpt_flows), &e));
  INVALID("config", tgpt_flows_new(classifier, no_config, OUT(tgpt_flows), &e));
  INVALID("out is NULL", tgpt_flows_new(classifier, NULL, NULL, &e));
  INVALID("out is not aligned", tgpt_flows_new(classifier, NULL, ODD(tgpt_flows *, &out.handle), &e));
  INVALID("flows.max_flows", tgpt_config_set(config, "flows.max_flows", "0", &e));
  INVALID("flows.counts", tgpt_config_set(config, "flows.counts", "8,4", &e));
  INVALID("flows.memory", tgpt_config_set(config, "flows.memory", "much", &e));
  MUST(tgpt_config_set(config, "flows.memory", "100", &e));
  INVALID("100 bytes", tgpt_flows_new(classifier, config, OUT(tgpt_flows), &e));

  INVALID("flows is NULL", tgpt_flows_push(NULL, two_packets, 1, &e));
  INVALID("flows", tgpt_flows_push(no_flows, two_packets, 1, &e));
  INVALID("observations is NULL", tgpt_flows_push(flows, NULL, 1, &e));
  INVALID("observations is not aligned", tgpt_flows_push(flows, ODD(const tgpt_observation, two_packets), 1, &e));
  INVALID("observations", tgpt_flows_push(flows, two_packets, (size_t)-1, &e));
  INVALID("observations[1].reserved", tgpt_flows_push(flows, two_packets, 2, &e));

  INVALID("flows is NULL", tgpt_flows_push_frames(NULL, 1, frames, infos, 1, &e));
  INVALID("flows", tgpt_flows_push_frames(no_flows, 1, frames, infos, 1, &e));
  INVALID("link_type", tgpt_flows_push_frames(flows, 9999, frames, infos, 1, &e));
  INVALID("frames is NULL", tgpt_flows_push_frames(flows, 1, NULL, infos, 1, &e));
  INVALID("infos is NULL", tgpt_flows_push_frames(flows, 1, frames, NULL, 1, &e));
  INVALID("frames", tgpt_flows_push_frames(flows, 1, frames, infos, (size_t)-1, &e));
  INVALID("frames[1] is NULL", tgpt_flows_push_frames(flows, 1, frames, infos, 2, &e));

  INVALID("flows is NULL", tgpt_flows_poll(NULL, 0, out.verdicts, 4, &out.needed, &e));
  INVALID("flows", tgpt_flows_poll(no_flows, 0, out.verdicts, 4, &out.needed, &e));
  INVALID("out is NULL", tgpt_flows_poll(flows, 0, NULL, 4, &out.needed, &e));
  INVALID("out", tgpt_flows_poll(flows, 0, out.verdicts, (size_t)-1, &out.needed, &e));
  INVALID("n is NULL", tgpt_flows_poll(flows, 0, out.verdicts, 4, NULL, &e));

  INVALID("flows is NULL", tgpt_flows_swap(NULL, classifier, out.labels, &e));
  INVALID("flows", tgpt_flows_swap(no_flows, classifier, out.labels, &e));
  INVALID("classifier is NULL", tgpt_flows_swap(flows, NULL, out.labels, &e));
  INVALID("classifier", tgpt_flows_swap(flows, wrong, out.labels, &e));
  INVALID("epoch is not aligned", tgpt_flows_swap(flows, classifier, ODD(uint32_t, out.labels), &e));

  INVALID("flows is NULL", tgpt_flows_flush(NULL, &e));
  INVALID("flows", tgpt_flows_flush(no_flows, &e));
  INVALID("flows is NULL", tgpt_flows_stats(NULL, out.json, 64, &out.needed, &e));
  INVALID("flows", tgpt_flows_stats(no_flows, out.json, 64, &out.needed, &e));
  INVALID("json is NULL", tgpt_flows_stats(flows, NULL, 64, &out.needed, &e));
  REFUSES(TGPT_E_NOSPACE, "needed", tgpt_flows_stats(flows, out.json, 64, NULL, &e));
  CHECK(tgpt_flows_due(NULL) == 0 && tgpt_flows_due(no_flows) == 0);

  /* Nothing of all that was taken. */
  MUST(tgpt_flows_poll(flows, 0, out.verdicts, 4, &n, &e));
  MUST(tgpt_flows_flush(flows, &e));
  MUST(tgpt_flows_poll(flows, 0, out.verdicts, 4, &n, &e));
  CHECK(n == 0);
  tgpt_flows_free(flows);
  tgpt_flows_free(NULL);
  tgpt_config_free(config);
}

int main(int argc, char **argv) {
  tgpt_config *config = NULL;
  tgpt_context *context = NULL;
  tgpt_worker *worker = NULL;
  tgpt_quantizer *quantizer = NULL;
  tgpt_classifier *classifier = NULL;
  tgpt_generator *generator = NULL;
  if (argc != 4) return 2;
  MUST(tgpt_config_new(&config, &e));
  MUST(tgpt_config_set(config, "engine", "native", &e));
  MUST(tgpt_context_new(config, NULL, &context, &e));
  MUST(tgpt_worker_new(context, &worker, &e));
  MUST(tgpt_quantizer_open(context, argv[1], &quantizer, &e));
  MUST(tgpt_classifier_open(context, argv[1], &classifier, &e));
  MUST(tgpt_generator_open(context, argv[1], &generator, &e));
  library();
  configs();
  contexts(context);
  workers(context, worker);
  bundles(context, worker, argv[1], argv[3]);
  quantizers(quantizer, context);
  classifiers(classifier, worker, context);
  generators(generator, worker, context);
  captures(context, argv[2], argv[3]);
  tables(classifier, context);
  tgpt_generator_free(generator);
  tgpt_classifier_free(classifier);
  tgpt_quantizer_free(quantizer);
  tgpt_worker_free(worker);
  tgpt_context_free(context);
  tgpt_config_free(config);
  return failures != 0;
}
