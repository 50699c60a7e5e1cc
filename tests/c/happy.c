/* Every call once, as meant. Prints what it got, floats as their bits; tests/c_api.rs compares that with what the Rust
 * API gives. Also compiled as C++. */
#include "check.h"

static int lines;

static void hook(void *user, int32_t level, const char *msg, size_t len) {
  CHECK(user == &lines && strlen(msg) == len);
  CHECK(level == TGPT_LOG_INFO);
  ++lines;
}

static unsigned bits(float value) {
  uint32_t out;
  memcpy(&out, &value, sizeof out);
  return out;
}

static void print_flow(const tgpt_packet *packets, uint64_t begin, uint64_t end) {
  for (; begin < end; ++begin) printf(" %d:%08x", (int)packets[begin].size, bits(packets[begin].ipt_us));
  printf("\n");
}

static void quantize(const tgpt_context *context, const char *bundle, const batch *b) {
  const size_t n = (size_t)b->offsets[N_FLOWS];
  uint32_t *tokens = NEW(uint32_t, n);
  tgpt_packet *back = NEW(tgpt_packet, n);
  tgpt_quantizer *quantizer = NULL;
  tgpt_error e;
  size_t i;
  MUST(tgpt_quantizer_open(context, bundle, &quantizer, &e));
  MUST(tgpt_quantizer_encode(quantizer, b->packets, n, tokens, &e));
  MUST(tgpt_quantizer_decode(quantizer, tokens, n, back, &e));
  MUST(tgpt_quantizer_encode(quantizer, NULL, 0, NULL, &e));
  MUST(tgpt_quantizer_decode(quantizer, NULL, 0, NULL, &e));
  printf("quantizer %u\n", tgpt_quantizer_n_tokens(quantizer));
  for (i = 0; i < n; ++i) printf(" %u", tokens[i]);
  printf("\n");
  print_flow(back, 0, n);
  MUST(tgpt_quantizer_decode_sampled(quantizer, tokens, n, 5, 6, back, &e));
  MUST(tgpt_quantizer_decode_sampled(quantizer, NULL, 0, 5, 6, NULL, &e));
  print_flow(back, 0, n);
  tgpt_quantizer_free(quantizer);
  free(tokens);
  free(back);
}

static void classify(const tgpt_context *context, tgpt_worker *worker, const char *bundle, const batch *b) {
  const uint64_t none[1] = {0};
  uint32_t labels[N_FLOWS], again[N_FLOWS], n_labels, dim, j;
  float *scores, *embeddings;
  tgpt_classifier *classifier = NULL;
  tgpt_error e;
  int i;
  MUST(tgpt_classifier_open(context, bundle, &classifier, &e));
  n_labels = tgpt_classifier_n_labels(classifier);
  dim = tgpt_classifier_embedding_dim(classifier);
  printf("classifier %s %u\n", tgpt_classifier_engine(classifier), dim);
  for (j = 0; j < n_labels; ++j) printf(" %s", tgpt_classifier_label(classifier, j));
  printf("\n");
  CHECK(tgpt_classifier_label(classifier, n_labels) == NULL);
  CHECK(tgpt_classifier_label(classifier, TGPT_UNKNOWN) == NULL);
  scores = NEW(float, N_FLOWS * n_labels);
  embeddings = NEW(float, N_FLOWS * dim);
  MUST(tgpt_classify(classifier, worker, b->packets, b->offsets, N_FLOWS, labels, scores, &e));
  MUST(tgpt_classify(classifier, worker, b->packets, b->offsets, N_FLOWS, again, NULL, &e));
  CHECK(memcmp(labels, again, sizeof labels) == 0);
  MUST(tgpt_embed(classifier, worker, b->packets, b->offsets, N_FLOWS, embeddings, &e));
  /* Zero flows are legal, with or without buffers. */
  MUST(tgpt_classify(classifier, worker, NULL, NULL, 0, NULL, NULL, &e));
  MUST(tgpt_classify(classifier, worker, NULL, none, 0, labels, scores, &e));
  MUST(tgpt_embed(classifier, worker, NULL, NULL, 0, NULL, &e));
  for (i = 0; i < N_FLOWS; ++i) {
    printf(" %u", labels[i]);
    for (j = 0; j < n_labels; ++j) printf(" %08x", bits(scores[(uint32_t)i * n_labels + j]));
    for (j = 0; j < dim; ++j) printf(" %08x", bits(embeddings[(uint32_t)i * dim + j]));
    printf("\n");
  }
  tgpt_classifier_free(classifier);
  free(scores);
  free(embeddings);
}

/* Goes on with the first half of each flow; then so that none is short and two tokens do not come. */
static void continue_flows(const tgpt_generator *generator, tgpt_worker *worker, tgpt_sampling sampling,
                           const tgpt_packet *flows, const uint64_t *offsets, size_t n) {
  const uint32_t banned[2] = {3, 5};
  const uint64_t none[1] = {0};
  tgpt_packet *begun = NEW(tgpt_packet, offsets[n]), *packets = NEW(tgpt_packet, n * 12);
  uint64_t *halves = NEW(uint64_t, n + 1), *got = NEW(uint64_t, n + 1);
  size_t i, needed = 0;
  tgpt_error e;
  uint64_t j;
  for (i = 0; i < n; ++i) {
    const uint64_t half = (offsets[i + 1] - offsets[i]) / 2;
    halves[i + 1] = halves[i] + half;
    for (j = 0; j < half; ++j) begun[halves[i] + j] = flows[offsets[i] + j];
  }
  CHECK(tgpt_continue(generator, worker, &sampling, begun, halves, n, NULL, 0, got, &needed, &e) == TGPT_E_NOSPACE);
  MUST(tgpt_continue(generator, worker, &sampling, begun, halves, n, packets, n * 12, got, NULL, &e));
  CHECK(got[n] == needed);
  for (i = 0; i < n; ++i) {
    for (j = 0; j < halves[i + 1] - halves[i]; ++j) CHECK(packets[got[i] + j].size == begun[halves[i] + j].size);
    print_flow(packets, got[i], got[i + 1]);
  }
  sampling.min_packets = 8;
  sampling.banned = banned;
  sampling.n_banned = 2;
  MUST(tgpt_continue(generator, worker, &sampling, begun, halves, n, packets, n * 12, got, NULL, &e));
  for (i = 0; i < n; ++i) {
    CHECK(got[i + 1] - got[i] >= 8);
    print_flow(packets, got[i], got[i + 1]);
  }
  MUST(tgpt_continue(generator, worker, &sampling, NULL, none, 0, NULL, 0, got, &needed, &e));
  CHECK(got[0] == 0 && needed == 0);
  free(begun);
  free(packets);
  free(halves);
  free(got);
}

static void generate(const tgpt_context *context, tgpt_worker *worker, const char *bundle) {
  enum { N = 9 };
  tgpt_sampling sampling = TGPT_SAMPLING_INIT;
  tgpt_generator *generator = NULL;
  tgpt_packet *packets;
  uint64_t offsets[N + 1], untouched[N + 1];
  size_t needed = 0, written = 0;
  float nll[2 * N];
  uint32_t j;
  tgpt_error e;
  int i;
  MUST(tgpt_generator_open(context, bundle, &generator, &e));
  printf("generator %s %u\n", tgpt_generator_engine(generator), tgpt_generator_max_packets(generator));
  for (j = 0; j < tgpt_generator_n_classes(generator); ++j) printf(" %s", tgpt_generator_class(generator, j));
  printf("\n");
  CHECK(tgpt_generator_class(generator, j) == NULL && tgpt_generator_class(generator, TGPT_UNKNOWN) == NULL);
  sampling.seed = 7;
  sampling.class_id = 1;
  sampling.max_packets = 12;
  /* First how much, then the flows. */
  memset(offsets, 0xA5, sizeof offsets);
  memcpy(untouched, offsets, sizeof offsets);
  CHECK(tgpt_generate(generator, worker, &sampling, N, NULL, 0, offsets, &needed, &e) == TGPT_E_NOSPACE);
  CHECK(e.code == TGPT_E_NOSPACE && strstr(e.msg, "cap") != NULL);
  CHECK(memcmp(offsets, untouched, sizeof offsets) == 0);
  CHECK(needed >= N && needed <= N * 12);
  packets = NEW(tgpt_packet, needed);
  CHECK(tgpt_generate(generator, worker, &sampling, N, packets, needed - 1, offsets, NULL, NULL) == TGPT_E_NOSPACE);
  CHECK(packets[0].size == 0);
  MUST(tgpt_generate(generator, worker, &sampling, N, packets, needed, offsets, &written, &e));
  CHECK(written == needed && offsets[N] == needed);
  for (i = 0; i < N; ++i) print_flow(packets, offsets[i], offsets[i + 1]);
  continue_flows(generator, worker, sampling, packets, offsets, N);
  MUST(tgpt_score(generator, worker, 1, packets, offsets, N, nll, &e));
  MUST(tgpt_score(generator, worker, TGPT_UNKNOWN, packets, offsets, N, nll + N, &e));
  for (i = 0; i < 2 * N; ++i) {
    uint32_t bits;
    memcpy(&bits, &nll[i], sizeof bits);
    printf(" %08x", (unsigned)bits);
  }
  printf("\n");
  MUST(tgpt_score(generator, worker, 1, NULL, offsets, 0, NULL, &e));
  /* Zero flows are legal. */
  offsets[0] = 5;
  MUST(tgpt_generate(generator, worker, &sampling, 0, NULL, 0, offsets, &written, &e));
  CHECK(offsets[0] == 0 && written == 0);
  tgpt_generator_free(generator);
  free(packets);
}

static void capture(const tgpt_config *config, const char *path) {
  tgpt_capture *capture = NULL;
  const tgpt_packet *packets = NULL;
  const uint64_t *offsets = NULL;
  tgpt_flow_info info;
  tgpt_error e;
  size_t i, n;
  int j;
  MUST(tgpt_capture_open(path, config, &capture, &e));
  MUST(tgpt_capture_packets(capture, &packets, &offsets, &e));
  n = tgpt_capture_n_flows(capture);
  printf("capture %lu %s\n", (unsigned long)n, tgpt_capture_warning(capture) ? tgpt_capture_warning(capture) : "whole");
  for (i = 0; i < n; ++i) {
    MUST(tgpt_capture_flow(capture, i, &info, &e));
    printf(" %lu %lu %lu %u %u %u %u ", (unsigned long)info.start_ns, (unsigned long)info.end_ns,
           (unsigned long)info.n_packets, info.client_port, info.server_port, info.protocol, info.ip_version);
    for (j = 0; j < 16; ++j) printf("%02x", info.client[j]);
    printf(" ");
    for (j = 0; j < 16; ++j) printf("%02x", info.server[j]);
    print_flow(packets, offsets[i], offsets[i + 1]);
  }
  tgpt_capture_free(capture);
}

int main(int argc, char **argv) {
  static batch b;
  tgpt_config *config = NULL;
  tgpt_context *context = NULL;
  tgpt_worker *worker = NULL;
  tgpt_hooks hooks;
  tgpt_error e;
  if (argc != 3) return 2;
  fill(&b);
  memset(&hooks, 0, sizeof hooks);
  hooks.type_size = sizeof hooks;
  hooks.user = &lines;
  hooks.log = hook;
  MUST(tgpt_config_new(&config, &e));
  MUST(tgpt_config_set(config, "engine", "native", &e));
  MUST(tgpt_context_new(config, &hooks, &context, &e));
  MUST(tgpt_worker_new(context, &worker, &e));
  CHECK(e.code == TGPT_OK && e.msg[0] == '\0');
  quantize(context, argv[1], &b);
  classify(context, worker, argv[1], &b);
  generate(context, worker, argv[1]);
  capture(config, argv[2]);
  CHECK(lines == 2);
  tgpt_worker_free(worker);
  tgpt_context_free(context);
  tgpt_config_free(config);
  return failures != 0;
}
