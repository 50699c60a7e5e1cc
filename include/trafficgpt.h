/* trafficgpt.h: classifies and generates network flows with a GPT-2 over packet sizes and times.
 *
 * Made from the Rust sources by `make header`; changes made here are lost.
 *
 * THE WAY THROUGH IT
 *   tgpt_context_new            once
 *   tgpt_classifier_open        once per bundle; every thread may use it
 *   tgpt_worker_new             once per thread
 *   tgpt_classify               as often as there are flows: batches are much faster than single ones
 *   tgpt_*_free                 in any order
 *   In a data path, instead of worker and classify:
 *   tgpt_flows_new              once per core
 *   tgpt_flows_push             every burst of packets
 *   tgpt_flows_poll             between bursts: verdicts
 *
 * STATUS AND ERRORS
 *   A call that can fail returns a tgpt_status: 0, or a negative TGPT_E_*. Its last argument takes the details, as code
 *   and sentence, in memory of the caller; it may be NULL. After success the message is empty. There is no thread-local
 *   "last error".
 *   On error nothing is written but the tgpt_error, and *needed with TGPT_E_NOSPACE.
 *   The library prints nothing and never ends the process: a bug of ours is TGPT_E_PANIC and a line for the log hook.
 *
 * HANDLES
 *   _new and _open give a handle to the caller, who frees it with the _free of its kind, once. _free takes NULL. The
 *   order does not matter: a worker or a model keeps what it needs of its context.
 *   A handle must not be freed while a call uses it.
 *
 * THREADS
 *   Calls that take a handle as const T* may overlap, from any threads. A call that takes T* excludes every other on that
 *   handle: a worker or config in use on another thread answers TGPT_E_BUSY.
 *   Models are immutable and shared, their weights are in memory once. A worker belongs to one thread at a time.
 *
 * BUFFERS
 *   All memory that is read or written is the caller's, and nothing of it is kept after the call. Buffers written must not
 *   overlap any other. A buffer for n values may be NULL where n is 0. Zero flows are legal.
 *   Flows of different lengths lie one after another, and offsets tell where each begins: flow i is
 *   packets[offsets[i] .. offsets[i + 1]], with n_flows + 1 offsets that begin with 0.
 *   Strings are NUL-terminated UTF-8; paths are whatever bytes the system takes.
 *
 * STRUCTS
 *   Those that begin with `type_size` may grow in later versions: set it to sizeof the struct and all you do not use to 0.
 *   The others are frozen. Reserved fields must be 0.
 *
 * FORK
 *   Until a model is opened no thread is started and no runtime is loaded: fork before that. With `engine` native and
 *   `threads` 1 no thread is ever started, and a fork may come later too.
 */

/* SETTINGS, for tgpt_config_set: key (default), meaning
 *   engine (auto): who runs the network: auto (onnx where onnx.library names one, else cuda where a GPU answers, else
 *       native), native, onnx or cuda; an engine named here never falls back to another
 *   threads (1): CPU threads of one worker, 1..=1024; leave it at 1 and use one worker per core where flows are many
 *   precision (f32): of the engines native and cuda: f32, or bf16 for two digits and up to twice the speed (native;
 *       needs AVX512-BF16) or tensor cores (cuda; the network's width must be a multiple of 8)
 *   onnx.library (empty): path of libonnxruntime.so; empty: ORT_DYLIB_PATH, beside this library, then the system's
 *   cuda.device (0): which GPU the engine cuda takes, 0..=255
 *   cuda.memory (0): bytes of the GPU's memory that one model may take, with K, M or G for powers of 1024; more work
 *       than fits is done in parts; 0: half of what is free
 *   meter.idle_timeout (60): seconds without a packet after which a flow of a capture has ended; more than 0
 *   meter.active_timeout (0): seconds after its first packet at which a flow of a capture is ended; 0: never
 *   meter.n_packets (126): packets of a flow that are kept, 1..=65536; models read 126 at most
 *   meter.max_flows (1048576): flows tracked at once, 1..=67108864; one more ends the one idle the longest
 *   meter.tunnel (inner): which packet of a tunnelled one is metered, in captures and in frames: inner or outer
 *   flows.max_flows (65536): flows that a streaming table tracks at once, 1..=67108864; all memory is taken when it is
 *       made, 150 bytes a flow at 32 packets
 *   flows.memory (0): bytes that a streaming table may take, with K, M or G for powers of 1024; it then tracks as many
 *       flows as fit; 0: as flows.max_flows says
 *   flows.counts (4,8,16,32): packet counts at which a flow is classified, rising, in 1..=126; the last is how many
 *       packets are kept
 *   flows.confidence (0.95): a verdict with at least this probability is the flow's last; more than 0, at most 1
 *   flows.min_packets (2): a flow that ends with fewer packets gets no verdict, 1..=65536
 *   flows.idle_timeout (60): seconds without a packet after which a flow of a streaming table has ended; more than 0
 *   flows.active_timeout (60): seconds after its first packet at which a flow of a streaming table is ended; 0: never
 *   flows.when_full (evict): what a full streaming table does with a new flow: evict (one that is idle gives way to it)
 *       or refuse
 */

#ifndef TRAFFICGPT_H
#define TRAFFICGPT_H

#include <stddef.h>
#include <stdint.h>

/** The version of this header; tgpt_version() tells the loaded library's. */
#define TGPT_VERSION "0.1.0"

/** A tgpt_sampling with every field at its default. */
#define TGPT_SAMPLING_INIT {sizeof(tgpt_sampling), 0, 0, TGPT_UNKNOWN, 0, 0, 1.0f, 1.0f, 0, 0, 0, NULL, {0, 0}}

/**
 * The ABI this header describes; equals the number in the SONAME `libtrafficgpt.so.1`. It changes when a program must
 * be compiled again.
 */
#define TGPT_ABI 1

/**
 * A bug of the library, caught.
 */
#define TGPT_LOG_ERROR 1

/**
 * What was loaded, and which engine was chosen.
 */
#define TGPT_LOG_INFO 3

/**
 * The label of a flow that the classifier does not know, and the class that asks the generator for flows of any kind.
 */
#define TGPT_UNKNOWN UINT32_MAX

/**
 * In tgpt_sampling.flags: a drawn token becomes one of the packets that it stands for, not always the same one, its
 * centroid. Sizes and times are then as various as those the quantizer was fitted to, and those of the class where the
 * bundle knows what packets each class has. Needs a bundle that knows them.
 */
#define TGPT_SAMPLE_PACKETS 1

/**
 * The flow reached one of the packet counts.
 */
#define TGPT_REASON_COUNT 1

/**
 * It reached one, and the label's probability the threshold.
 */
#define TGPT_REASON_CONFIDENT 2

/**
 * Its TCP connection is over: FINs of both sides, or a RST.
 */
#define TGPT_REASON_TCP_END 3

/**
 * No packet came for the idle timeout.
 */
#define TGPT_REASON_IDLE 4

/**
 * The active timeout passed since its first packet.
 */
#define TGPT_REASON_ACTIVE 5

/**
 * It gave way to a new flow in a full table.
 */
#define TGPT_REASON_EVICTED 6

/**
 * The table was flushed.
 */
#define TGPT_REASON_FLUSHED 7

/**
 * The flows of a capture file, metered and in memory. Immutable, shared by any threads.
 */
typedef struct tgpt_capture tgpt_capture;

/**
 * Tells what a flow is. Immutable, shared by any threads; the weights are held once.
 */
typedef struct tgpt_classifier tgpt_classifier;

/**
 * Settings by key, all at their defaults when new. The keys are listed at the top of this header.
 */
typedef struct tgpt_config tgpt_config;

/**
 * The root of everything that runs: settings, threads, runtimes, hooks. One per process is enough; several are legal.
 */
typedef struct tgpt_context tgpt_context;

/**
 * The streaming table of a data path: packets in, verdicts out. Make one per core or RSS queue, and send both directions
 * of a flow to the same one.
 *
 * A flow becomes due for a verdict when it has as many packets as one of `flows.counts`, and when it ends: by FINs of
 * both sides or a RST, by idle or active timeout in packet time, by eviction, by a flush. A verdict at a count rests on
 * exactly that many of the flow's first packets, however late the poll; of several counts reached by then, only the last
 * is looked at. Every flow of at least `flows.min_packets` gets exactly one final verdict: at the last count, at one
 * where the label's probability reaches `flows.confidence`, or when it ends.
 *
 * All memory of the table is taken when it is made; only tgpt_flows_poll uses more, for the network's scratch. A push
 * allocates nothing, waits for nobody and makes no system call. tgpt_flows_poll runs the network on the calling thread:
 * `cap` bounds how long.
 */
typedef struct tgpt_flows tgpt_flows;

/**
 * Makes flows like those it was trained on. Immutable, shared by any threads; the weights are held once.
 */
typedef struct tgpt_generator tgpt_generator;

/**
 * Packets to tokens and back: the nearest centroid of the bundle's codebook. Immutable, shared by any threads.
 */
typedef struct tgpt_quantizer tgpt_quantizer;

/**
 * One thread's scratch, for any number of models: memory, caches, streams. It grows to the largest batch seen and is
 * kept. Make one per thread; N workers on one model scale with cores.
 */
typedef struct tgpt_worker tgpt_worker;

/**
 * 0, or one of the negative `TGPT_E_*`. Numbers are never given another meaning; new ones may be added, so treat an
 * unknown negative number as a failure.
 */
typedef int32_t tgpt_status;

/**
 * What went wrong, filled by the call if the caller passes one. Frozen: 512 bytes.
 */
typedef struct tgpt_error {
  /**
   * The status that the call returned.
   */
  tgpt_status code;
  /**
   * A sentence in UTF-8 that names what, where and, where there is one, the remedy. Always ends with a NUL; empty
   * after success; a longer one is cut and ends in "...".
   */
  char msg[508];
} tgpt_error;

/**
 * Functions of the host that the library calls. Set `type_size` to `sizeof(tgpt_hooks)` and everything unused to 0.
 */
typedef struct tgpt_hooks {
  /**
   * `sizeof(tgpt_hooks)` of the caller.
   */
  size_t type_size;
  /**
   * Handed to every hook as it is.
   */
  void *user;
  /**
   * Takes one line of the log: `level` is one of `TGPT_LOG_*` (new ones may come), `msg` is UTF-8 of `len` bytes
   * with a NUL behind it, valid during the call. Called on the thread that is inside a `tgpt_*` call; several may
   * be at once. It must return: no longjmp, no exception.
   */
  void (*log)(void *user, int32_t level, const char *msg, size_t len);
  /**
   * 0.
   */
  uint64_t reserved[4];
} tgpt_hooks;

/**
 * One packet of a flow, as anyone on the wire sees it.
 */
typedef struct tgpt_packet {
  /**
   * IP packet length in bytes: positive from client to server, negative from server to client.
   */
  int32_t size;
  /**
   * Time since the flow's previous packet, in microseconds; 0 for the first.
   */
  float ipt_us;
} tgpt_packet;

/**
 * Who talked to whom, and when. Frozen: 72 bytes, no padding.
 */
typedef struct tgpt_flow_info {
  /**
   * Address of the client, which sent the first packet, in network order; IPv4 as ::ffff:a.b.c.d.
   */
  uint8_t client[16];
  /**
   * Address of the server.
   */
  uint8_t server[16];
  /**
   * Time of the first packet: nanoseconds since 1970-01-01 UTC.
   */
  uint64_t start_ns;
  /**
   * Time of the last packet.
   */
  uint64_t end_ns;
  /**
   * Packets of the whole flow; tgpt_capture_packets gives the first of them.
   */
  uint64_t n_packets;
  /**
   * Port of the client in host order; 0 where the protocol has none.
   */
  uint16_t client_port;
  /**
   * Port of the server.
   */
  uint16_t server_port;
  /**
   * IP protocol number: 6 is TCP, 17 is UDP.
   */
  uint8_t protocol;
  /**
   * 4 or 6.
   */
  uint8_t ip_version;
  /**
   * 0.
   */
  uint8_t reserved[10];
} tgpt_flow_info;

/**
 * How flows are drawn. Begin with TGPT_SAMPLING_INIT, which sets `type_size` and every default.
 */
typedef struct tgpt_sampling {
  /**
   * `sizeof(tgpt_sampling)` of the caller.
   */
  size_t type_size;
  /**
   * Where the draws come from: the same seed gives the same flows, on any engine and any number of threads.
   */
  uint64_t seed;
  /**
   * Number of the first flow: flow `i` of the call is flow `first_flow + i` of the seed, so that a long run can be
   * cut into calls.
   */
  uint64_t first_flow;
  /**
   * The class of the flows, less than tgpt_generator_n_classes; or TGPT_UNKNOWN: any.
   */
  uint32_t class_id;
  /**
   * Most packets of a flow; 0: as many as the model can.
   */
  uint32_t max_packets;
  /**
   * Draw from this many most likely tokens; 0: from all.
   */
  uint32_t top_k;
  /**
   * Draw from the most likely tokens that together reach this probability, in (0, 1]; 1: from all.
   */
  float top_p;
  /**
   * Divides the logits, in 0..=100: below 1 the likely becomes likelier; 0 always takes the likeliest.
   */
  float temperature;
  /**
   * TGPT_SAMPLE_PACKETS, or 0.
   */
  uint32_t flags;
  /**
   * No flow ends before it has as many packets, at most tgpt_generator_max_packets; 0 or 1: any may.
   */
  uint32_t min_packets;
  /**
   * Number of tokens in `banned`.
   */
  uint32_t n_banned;
  /**
   * Tokens that do not come, less than tgpt_quantizer_n_tokens; that number itself stands for the end of a flow,
   * without which all have `max_packets`. NULL where `n_banned` is 0.
   */
  const uint32_t *banned;
  /**
   * 0.
   */
  uint64_t reserved[2];
} tgpt_sampling;

/**
 * One packet as the data path saw it. Frozen: 64 bytes, no padding.
 *
 * A flow is all packets between the same two ends (address and port), with the same protocol and zone, whoever sends;
 * the client is who sent its first. Who has flow keys of its own writes the key into both addresses, and 0 and 1 into
 * the ports for the two sides, sender first; protocol and flags as they are, or 0.
 */
typedef struct tgpt_observation {
  /**
   * When it was seen, in nanoseconds of any clock that all packets of the table share.
   */
  uint64_t ts_ns;
  /**
   * Address of the sender, in network order; IPv4 as ::ffff:a.b.c.d.
   */
  uint8_t src[16];
  /**
   * Address of the receiver.
   */
  uint8_t dst[16];
  /**
   * Port of the sender in host order; 0 where the protocol has none.
   */
  uint16_t src_port;
  /**
   * Port of the receiver.
   */
  uint16_t dst_port;
  /**
   * Length of the IP packet in bytes.
   */
  uint32_t size;
  /**
   * Part of the flow's identity: a tenant, VLAN or VRF whose addresses others may use too; 0 where there is one.
   */
  uint32_t zone;
  /**
   * IP protocol number: 6 is TCP, 17 is UDP.
   */
  uint8_t protocol;
  /**
   * TCP's flags, FIN the lowest bit; 0 of other protocols.
   */
  uint8_t tcp_flags;
  /**
   * 0.
   */
  uint8_t reserved[10];
} tgpt_observation;

/**
 * What a data path knows of a frame besides its bytes. Frozen: 16 bytes, no padding.
 */
typedef struct tgpt_frame_info {
  /**
   * When it was seen, in nanoseconds of any clock that all packets of the table share.
   */
  uint64_t ts_ns;
  /**
   * Bytes of it that are there; the headers are enough.
   */
  uint32_t captured;
  /**
   * Its length on the wire, not less than `captured`.
   */
  uint32_t wire_len;
} tgpt_frame_info;

/**
 * What a flow is. Frozen: 80 bytes, no padding.
 */
typedef struct tgpt_verdict {
  /**
   * Address of the client, which sent the first packet, in network order; IPv4 as ::ffff:a.b.c.d.
   */
  uint8_t client[16];
  /**
   * Address of the server.
   */
  uint8_t server[16];
  /**
   * Time of the flow's first packet.
   */
  uint64_t start_ns;
  /**
   * The latest time of its packets so far.
   */
  uint64_t last_ns;
  /**
   * Its packets so far; stays at the largest number there is.
   */
  uint32_t n_packets;
  /**
   * The observations' zone.
   */
  uint32_t zone;
  /**
   * Its label, or TGPT_UNKNOWN where no probability reached the bundle's threshold.
   */
  uint32_t label;
  /**
   * The largest of the labels' calibrated probabilities.
   */
  float score;
  /**
   * Which classifier's label it is: 0 for the table's first, or what tgpt_flows_swap gave.
   */
  uint32_t epoch;
  /**
   * Port of the client in host order.
   */
  uint16_t client_port;
  /**
   * Port of the server.
   */
  uint16_t server_port;
  /**
   * IP protocol number.
   */
  uint8_t protocol;
  /**
   * 4 or 6.
   */
  uint8_t ip_version;
  /**
   * Why it was given: one of TGPT_REASON_*; new ones may come.
   */
  uint8_t reason;
  /**
   * 1 if no other verdict of this flow will come, else 0.
   */
  uint8_t is_final;
  /**
   * The label rests on this many of the flow's packets, its first.
   */
  uint8_t n_read;
  /**
   * 0.
   */
  uint8_t reserved[3];
} tgpt_verdict;

/**
 * Done.
 */
#define TGPT_OK 0

/**
 * An argument or a setting is NULL, out of its range, or a reserved byte is not 0.
 */
#define TGPT_E_INVALID -1

/**
 * Memory, or a limit on memory, is exhausted.
 */
#define TGPT_E_NOMEM -2

/**
 * The operating system refused: a file is missing or unreadable.
 */
#define TGPT_E_IO -3

/**
 * A file is damaged or is not what it should be.
 */
#define TGPT_E_FORMAT -4

/**
 * A bundle is of a newer format than this library reads.
 */
#define TGPT_E_VERSION -5

/**
 * Parts that do not belong together.
 */
#define TGPT_E_MISMATCH -6

/**
 * The runtime of the engine that was asked for is not there; the message says how to get it.
 */
#define TGPT_E_NO_RUNTIME -7

/**
 * The runtime of the engine failed.
 */
#define TGPT_E_RUNTIME -8

/**
 * The handle is in use on another thread.
 */
#define TGPT_E_BUSY -9

/**
 * A buffer is too small; `*needed` says how large it must be.
 */
#define TGPT_E_NOSPACE -10

/**
 * A bug in this library, caught. A worker or config that was in the call refuses every call from then on and can only
 * be freed; models are immutable and stay usable.
 */
#define TGPT_E_PANIC -99



#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The ABI of the loaded library; compare with `TGPT_ABI`.
 *
 * Threads: any.
 * Since: 0.1.0.
 */
uint32_t tgpt_abi(void);

/**
 * The version of the loaded library, "major.minor.patch"; compare with `TGPT_VERSION`.
 *
 * Returns a static string.
 * Threads: any.
 * Since: 0.1.0.
 */
const char *tgpt_version(void);

/**
 * A few words for `status`, for messages where no `tgpt_error` was passed.
 *
 * Returns a static string, also for numbers that are no status.
 * Threads: any.
 * Since: 0.1.0.
 */
const char *tgpt_status_str(tgpt_status status);

/**
 * Makes a config with every key at its default.
 *
 * Writes the new handle to `*out`; free it with tgpt_config_free.
 * Errors: TGPT_E_INVALID where `out` is NULL.
 * Threads: any.
 * Since: 0.1.0.
 */
tgpt_status tgpt_config_new(struct tgpt_config **out, struct tgpt_error *error);

/**
 * Sets one key. Handles made from the config before keep what they were made with.
 *
 * `key`, `value`: UTF-8, copied.
 * Errors: TGPT_E_INVALID for an unknown key or a value out of its range; the key then keeps its value. TGPT_E_BUSY where
 * another thread is inside this config.
 * Threads: one at a time per config.
 * Since: 0.1.0.
 */
tgpt_status tgpt_config_set(struct tgpt_config *config,
                            const char *key,
                            const char *value,
                            struct tgpt_error *error);

/**
 * Frees a config; NULL is legal. Handles made from it are not touched.
 *
 * Since: 0.1.0.
 */
void tgpt_config_free(struct tgpt_config *config);

/**
 * Makes a context. No thread is started and nothing of an engine's runtime is touched before a model is opened, so a
 * process may fork until then.
 *
 * `config`: NULL for defaults; copied. `hooks`: NULL for none; copied. The hooks are called as long as the context or
 * any handle made from it lives.
 * Writes the new handle to `*out`; free it with tgpt_context_free.
 * Errors: TGPT_E_INVALID for a NULL `out` or hooks that break their rules; TGPT_E_BUSY where another thread is inside
 * `config`.
 * Threads: any.
 * Since: 0.1.0.
 */
tgpt_status tgpt_context_new(const struct tgpt_config *config,
                             const struct tgpt_hooks *hooks,
                             struct tgpt_context **out,
                             struct tgpt_error *error);

/**
 * Frees a context; NULL is legal. Handles made from it live on and keep what they need of it.
 *
 * Since: 0.1.0.
 */
void tgpt_context_free(struct tgpt_context *context);

/**
 * Makes a worker.
 *
 * Writes the new handle to `*out`; free it with tgpt_worker_free.
 * Errors: TGPT_E_INVALID for a NULL.
 * Threads: any.
 * Since: 0.1.0.
 */
tgpt_status tgpt_worker_new(const struct tgpt_context *context, struct tgpt_worker **out, struct tgpt_error *error);

/**
 * Frees a worker; NULL is legal. No call may be using it.
 *
 * Since: 0.1.0.
 */
void tgpt_worker_free(struct tgpt_worker *worker);

/**
 * Reads a capture (pcap or pcapng, plain or gzip) and meters it into flows, in the order in which they ended.
 *
 * `path`: the file. `config`: NULL for defaults; its keys of metering say when a flow ends and how many packets are
 * kept.
 * Writes the new handle to `*out`; free it with tgpt_capture_free.
 * Errors: TGPT_E_IO for a file that cannot be read, TGPT_E_FORMAT for one that is no capture, TGPT_E_NOMEM for more
 * than 2^24 flows, TGPT_E_INVALID for a NULL. A capture that is cut in the middle is no error: what was read
 * counts, and tgpt_capture_warning tells where it ended.
 * Threads: any.
 * Since: 0.1.0.
 */
tgpt_status tgpt_capture_open(const char *path,
                              const struct tgpt_config *config,
                              struct tgpt_capture **out,
                              struct tgpt_error *error);

/**
 * Number of flows. 0 where `capture` is NULL.
 *
 * Threads: any.
 * Since: 0.1.0.
 */
size_t tgpt_capture_n_flows(const struct tgpt_capture *capture);

/**
 * The packets of all flows, as tgpt_classify takes them: flow `i` is `packets[offsets[i] .. offsets[i + 1]]`.
 *
 * Writes to `*packets` and `*offsets` where they lie; they live as long as the capture.
 * Errors: TGPT_E_INVALID for a NULL.
 * Threads: any.
 * Since: 0.1.0.
 */
tgpt_status tgpt_capture_packets(const struct tgpt_capture *capture,
                                 const struct tgpt_packet **packets,
                                 const uint64_t **offsets,
                                 struct tgpt_error *error);

/**
 * Writes to `*out` who talked to whom in flow `i`, and when.
 *
 * Errors: TGPT_E_INVALID for a NULL or an `i` that is no flow.
 * Threads: any.
 * Since: 0.1.0.
 */
tgpt_status tgpt_capture_flow(const struct tgpt_capture *capture,
                              size_t i,
                              struct tgpt_flow_info *out,
                              struct tgpt_error *error);

/**
 * What the reader of this capture should know, such as that the file ends inside a record. NULL where there is nothing.
 *
 * Returns a string in UTF-8 that lives as long as the capture.
 * Threads: any.
 * Since: 0.1.0.
 */
const char *tgpt_capture_warning(const struct tgpt_capture *capture);

/**
 * Frees a capture and the packets that tgpt_capture_packets showed; NULL is legal. No call may be using it.
 *
 * Since: 0.1.0.
 */
void tgpt_capture_free(struct tgpt_capture *capture);

/**
 * Opens the quantizer of a bundle.
 *
 * `bundle`: path of the bundle's directory. It is checked whole, as by the other two calls that open one.
 * Writes the new handle to `*out`; free it with tgpt_quantizer_free.
 * Errors: TGPT_E_IO, TGPT_E_FORMAT, TGPT_E_VERSION, TGPT_E_MISMATCH for a bundle that is not whole; TGPT_E_INVALID
 * for a NULL.
 * Threads: any.
 * Since: 0.1.0.
 */
tgpt_status tgpt_quantizer_open(const struct tgpt_context *context,
                                const char *bundle,
                                struct tgpt_quantizer **out,
                                struct tgpt_error *error);

/**
 * Number of packet tokens K; a token is less than it. 0 where `quantizer` is NULL.
 *
 * Threads: any.
 * Since: 0.1.0.
 */
uint32_t tgpt_quantizer_n_tokens(const struct tgpt_quantizer *quantizer);

/**
 * The token of each packet: its nearest centroid, ties to the lowest token.
 *
 * `packets`: `n` packets. `tokens`: room for `n` tokens.
 * Errors: TGPT_E_INVALID for a packet whose time is negative or not finite, or a NULL where `n` is not 0.
 * Threads: any.
 * Since: 0.1.0.
 */
tgpt_status tgpt_quantizer_encode(const struct tgpt_quantizer *quantizer,
                                  const struct tgpt_packet *packets,
                                  size_t n,
                                  uint32_t *tokens,
                                  struct tgpt_error *error);

/**
 * The packet at each token's centroid.
 *
 * `tokens`: `n` tokens, each less than tgpt_quantizer_n_tokens. `packets`: room for `n` packets.
 * Errors: TGPT_E_INVALID for a token that is no packet's, or a NULL where `n` is not 0.
 * Threads: any.
 * Since: 0.1.0.
 */
tgpt_status tgpt_quantizer_decode(const struct tgpt_quantizer *quantizer,
                                  const uint32_t *tokens,
                                  size_t n,
                                  struct tgpt_packet *packets,
                                  struct tgpt_error *error);

/**
 * A packet of each token, drawn from those that the token stands for: its size occurred among them, its time lies between
 * times that did, and it has that token.
 *
 * `tokens`: `n` tokens, each less than tgpt_quantizer_n_tokens. `packets`: room for `n` packets. `seed`, `stream`: where
 * the draws come from; token `i` gets draw `i` of that stream, so that equal arguments give equal packets.
 * Errors: TGPT_E_INVALID for a token that is no packet's, or a NULL where `n` is not 0; TGPT_E_MISMATCH where the bundle
 * does not know the packets behind its centroids.
 * Threads: any.
 * Since: 0.1.0.
 */
tgpt_status tgpt_quantizer_decode_sampled(const struct tgpt_quantizer *quantizer,
                                          const uint32_t *tokens,
                                          size_t n,
                                          uint64_t seed,
                                          uint64_t stream,
                                          struct tgpt_packet *packets,
                                          struct tgpt_error *error);

/**
 * Frees a quantizer; NULL is legal. No call may be using it.
 *
 * Since: 0.1.0.
 */
void tgpt_quantizer_free(struct tgpt_quantizer *quantizer);

/**
 * Opens the classifier of a bundle, on the engine that the context's config asks for. "auto" may choose, and
 * tgpt_classifier_engine tells what it chose; an engine that was named is used or refused.
 *
 * `bundle`: path of the bundle's directory. It is checked whole before anything of it runs.
 * Writes the new handle to `*out`; free it with tgpt_classifier_free.
 * Errors: TGPT_E_IO, TGPT_E_FORMAT, TGPT_E_VERSION, TGPT_E_MISMATCH for a bundle that is not whole or has no
 * classifier; TGPT_E_NO_RUNTIME, TGPT_E_RUNTIME from the engine; TGPT_E_INVALID for a NULL.
 * Threads: any.
 * Since: 0.1.0.
 */
tgpt_status tgpt_classifier_open(const struct tgpt_context *context,
                                 const char *bundle,
                                 struct tgpt_classifier **out,
                                 struct tgpt_error *error);

/**
 * The engine in use, "native", "onnx" or "cuda". NULL where `classifier` is NULL.
 *
 * Returns a static string.
 * Threads: any.
 * Since: 0.1.0.
 */
const char *tgpt_classifier_engine(const struct tgpt_classifier *classifier);

/**
 * Number of labels; a label is less than it, or TGPT_UNKNOWN. 0 where `classifier` is NULL.
 *
 * Threads: any.
 * Since: 0.1.0.
 */
uint32_t tgpt_classifier_n_labels(const struct tgpt_classifier *classifier);

/**
 * The name of `label`, in UTF-8. NULL where there is no such label (TGPT_UNKNOWN has no name).
 *
 * Returns a string that lives as long as the classifier.
 * Threads: any.
 * Since: 0.1.0.
 */
const char *tgpt_classifier_label(const struct tgpt_classifier *classifier, uint32_t label);

/**
 * Number of dimensions of an embedding. 0 where `classifier` is NULL.
 *
 * Threads: any.
 * Since: 0.1.0.
 */
uint32_t tgpt_classifier_embedding_dim(const struct tgpt_classifier *classifier);

/**
 * The label of each flow, and the probability of every label.
 *
 * `packets`, `offsets`: flow `i` is `packets[offsets[i] .. offsets[i + 1]]` for `i` in `0 .. n_flows`; `offsets` has
 * `n_flows + 1` values, begins with 0 and never falls.
 * Every flow has at least one packet; those past what the model reads (126 at most) are ignored.
 * `labels`: room for `n_flows` labels; TGPT_UNKNOWN where no probability reached the bundle's threshold.
 * `scores`: NULL, or room for `n_flows * n_labels` calibrated probabilities, one row per flow.
 * Errors: TGPT_E_INVALID for a NULL where there is something to read or write, offsets that fall or do not begin with
 * 0, a flow without packets, a packet whose time is negative or not finite; TGPT_E_BUSY where another thread is
 * inside this worker; TGPT_E_RUNTIME from the engine.
 * Threads: any number on one classifier, each with its own worker.
 * Since: 0.1.0.
 */
tgpt_status tgpt_classify(const struct tgpt_classifier *classifier,
                          struct tgpt_worker *worker,
                          const struct tgpt_packet *packets,
                          const uint64_t *offsets,
                          size_t n_flows,
                          uint32_t *labels,
                          float *scores,
                          struct tgpt_error *error);

/**
 * The embedding of each flow: the mean of the network's last hidden states over the flow's packets.
 *
 * `packets`, `offsets`, `n_flows`: as of tgpt_classify.
 * `embeddings`: room for `n_flows * tgpt_classifier_embedding_dim` values, one row per flow.
 * Errors: as of tgpt_classify.
 * Threads: any number on one classifier, each with its own worker.
 * Since: 0.1.0.
 */
tgpt_status tgpt_embed(const struct tgpt_classifier *classifier,
                       struct tgpt_worker *worker,
                       const struct tgpt_packet *packets,
                       const uint64_t *offsets,
                       size_t n_flows,
                       float *embeddings,
                       struct tgpt_error *error);

/**
 * Frees a classifier; NULL is legal. No call may be using it.
 *
 * Since: 0.1.0.
 */
void tgpt_classifier_free(struct tgpt_classifier *classifier);

/**
 * Opens the generator of a bundle, on the engine that the context's config asks for, as tgpt_classifier_open does.
 *
 * `bundle`: path of the bundle's directory. It is checked whole before anything of it runs.
 * Writes the new handle to `*out`; free it with tgpt_generator_free.
 * Errors: TGPT_E_IO, TGPT_E_FORMAT, TGPT_E_VERSION, TGPT_E_MISMATCH for a bundle that is not whole; TGPT_E_NO_RUNTIME,
 * TGPT_E_RUNTIME from the engine; TGPT_E_INVALID for a NULL.
 * Threads: any.
 * Since: 0.1.0.
 */
tgpt_status tgpt_generator_open(const struct tgpt_context *context,
                                const char *bundle,
                                struct tgpt_generator **out,
                                struct tgpt_error *error);

/**
 * The engine in use, "native", "onnx" or "cuda". NULL where `generator` is NULL.
 *
 * Returns a static string.
 * Threads: any.
 * Since: 0.1.0.
 */
const char *tgpt_generator_engine(const struct tgpt_generator *generator);

/**
 * Number of classes that flows can be asked for by; 0 for a model trained without, or where `generator` is NULL.
 *
 * Threads: any.
 * Since: 0.1.0.
 */
uint32_t tgpt_generator_n_classes(const struct tgpt_generator *generator);

/**
 * The name of class `class_id`, in UTF-8. NULL where there is no such class.
 *
 * Returns a string that lives as long as the generator.
 * Threads: any.
 * Since: 0.1.0.
 */
const char *tgpt_generator_class(const struct tgpt_generator *generator, uint32_t class_id);

/**
 * Most packets that a flow of this model can have: `n_flows` times it always is enough room. 0 where `generator` is
 * NULL.
 *
 * Threads: any.
 * Since: 0.1.0.
 */
uint32_t tgpt_generator_max_packets(const struct tgpt_generator *generator);

/**
 * Draws `n_flows` flows of at least one packet each. Flow `i` depends on `sampling` and `i` alone, not on `n_flows`.
 *
 * `packets`: room for `cap` packets; flow `i` is written to `packets[offsets[i] .. offsets[i + 1]]`.
 * `offsets`: room for `n_flows + 1` values.
 * `needed`: NULL, or gets the number of packets of all the flows, also with TGPT_E_NOSPACE.
 * Errors: TGPT_E_NOSPACE where `cap` is less than what is needed: nothing but `*needed` is written, and the same call
 * with enough room gives the flows. TGPT_E_INVALID for a class that is not there, a value out of its range, more
 * flows than 2^24, a banned token that is none, reserved bytes that are not 0, a NULL. TGPT_E_BUSY where another thread
 * is inside this worker; TGPT_E_RUNTIME from the engine.
 * Threads: any number on one generator, each with its own worker.
 * Since: 0.1.0.
 */
tgpt_status tgpt_generate(const struct tgpt_generator *generator,
                          struct tgpt_worker *worker,
                          const struct tgpt_sampling *sampling,
                          size_t n_flows,
                          struct tgpt_packet *packets,
                          size_t cap,
                          uint64_t *offsets,
                          size_t *needed,
                          struct tgpt_error *error);

/**
 * Continues `n_flows` flows whose first packets are given: each is written whole, first the packets given as they are,
 * then those drawn. Flow `i` depends on `sampling`, `i` and its own packets alone.
 *
 * A packet's draw depends on the seed, the flow's number and its place in the flow: with the seed and number that a
 * flow was generated with, it goes on as it did.
 *
 * `begun`, `begun_offsets`: flow `i` begins with `begun[begun_offsets[i] .. begun_offsets[i + 1]]`, as in tgpt_classify:
 * at most as many packets as a flow may have; with none it is a new flow, as of tgpt_generate.
 * `packets`, `cap`, `offsets`, `needed`: as of tgpt_generate, whose errors these are.
 * Errors: TGPT_E_INVALID also for a flow with too many packets, a packet that is none, offsets that do not rise.
 * Threads: any number on one generator, each with its own worker.
 * Since: 0.1.0.
 */
tgpt_status tgpt_continue(const struct tgpt_generator *generator,
                          struct tgpt_worker *worker,
                          const struct tgpt_sampling *sampling,
                          const struct tgpt_packet *begun,
                          const uint64_t *begun_offsets,
                          size_t n_flows,
                          struct tgpt_packet *packets,
                          size_t cap,
                          uint64_t *offsets,
                          size_t *needed,
                          struct tgpt_error *error);

/**
 * Scores flows by how likely the model is to generate them: what is unlike the traffic it has seen scores high.
 *
 * `class_id`: score the flows as flows of this class, less than tgpt_generator_n_classes; or TGPT_UNKNOWN: of any.
 * `packets`, `offsets`, `n_flows`: flow `i` is `packets[offsets[i] .. offsets[i + 1]]`, as in tgpt_classify. Of each
 * flow as many packets count as tgpt_generator_max_packets; the first packets of a longer flow may be given.
 * `nll`: room for `n_flows` values: the negative log-likelihood of a packet's token in nats, on average over the flow.
 * Errors: TGPT_E_INVALID for a class that is not there, a flow without packets, a packet that is none, offsets that do
 * not rise, a NULL. TGPT_E_BUSY where another thread is inside this worker; TGPT_E_RUNTIME from the engine.
 * Threads: any number on one generator, each with its own worker.
 * Since: 0.1.0.
 */
tgpt_status tgpt_score(const struct tgpt_generator *generator,
                       struct tgpt_worker *worker,
                       uint32_t class_id,
                       const struct tgpt_packet *packets,
                       const uint64_t *offsets,
                       size_t n_flows,
                       float *nll,
                       struct tgpt_error *error);

/**
 * Frees a generator; NULL is legal. No call may be using it.
 *
 * Since: 0.1.0.
 */
void tgpt_generator_free(struct tgpt_generator *generator);

/**
 * Makes a table whose flows `classifier` tells apart. The classifier may be freed before the table.
 *
 * `config`: NULL for defaults; its keys of flows say how large the table is and when a verdict is given, and
 * `meter.tunnel` which packet of a frame counts.
 * Writes the new handle to `*out`; free it with tgpt_flows_free.
 * Errors: TGPT_E_NOMEM where there is no memory for so many flows; TGPT_E_MISMATCH for a classifier that reads fewer
 * packets than the last of `flows.counts`, or whose codebook has more than 2^16 centroids; TGPT_E_INVALID for a NULL or
 * a `flows.memory` that holds no flow; TGPT_E_BUSY where another thread is inside `config`.
 * Threads: any.
 * Since: 0.1.0.
 */
tgpt_status tgpt_flows_new(const struct tgpt_classifier *classifier,
                           const struct tgpt_config *config,
                           struct tgpt_flows **out,
                           struct tgpt_error *error);

/**
 * Takes packets that the caller has parsed, in the order in which they were seen. Bursts of 32 or more are fastest.
 *
 * Every packet is taken: new flows for which there is no room are counted, not reported. A packet older than the latest
 * of its flow is taken to have come with that one.
 * `observations`: `n` packets.
 * Errors: TGPT_E_INVALID for a NULL where `n` is not 0, or reserved bytes that are not 0: nothing is taken then;
 * TGPT_E_BUSY where another thread is inside this table.
 * Threads: one at a time per table.
 * Since: 0.1.0.
 */
tgpt_status tgpt_flows_push(struct tgpt_flows *flows,
                            const struct tgpt_observation *observations,
                            size_t n,
                            struct tgpt_error *error);

/**
 * Takes frames as they came from the wire, in the order in which they were seen; the library finds the IP packet in them
 * (VLAN, MPLS, PPPoE, IPv4, IPv6, tunnels).
 *
 * Frames without an IP packet that can be read are counted, not reported. Fragments join the flow that their first one
 * names. The zone of all flows is 0.
 * `link_type`: of all `n` frames, by the numbers of the tcpdump group's registry: 1 is Ethernet, 101 bare IP.
 * `frames`: `n` pointers to the bytes, of which frame `i` has `infos[i].captured`. `infos`: one per frame.
 * Errors: TGPT_E_INVALID for a link type that is not supported, a NULL where there is something to read: nothing is
 * taken then; TGPT_E_BUSY where another thread is inside this table.
 * Threads: one at a time per table.
 * Since: 0.1.0.
 */
tgpt_status tgpt_flows_push_frames(struct tgpt_flows *flows,
                                   uint32_t link_type,
                                   const uint8_t *const *frames,
                                   const struct tgpt_frame_info *infos,
                                   size_t n,
                                   struct tgpt_error *error);

/**
 * Number of flows that are due for a verdict, as of the last push or poll. 0 where `flows` is NULL.
 *
 * Threads: any, also while another is inside this table.
 * Since: 0.1.0.
 */
size_t tgpt_flows_due(const struct tgpt_flows *flows);

/**
 * Ends flows whose time is over, runs the network over flows that are due, and writes their verdicts, in the order in
 * which the flows became due.
 *
 * `now_ns`: the time, on the packets' clock, up to which all packets have been pushed; 0 takes the packets' own.
 * `out`: room for `cap` verdicts; `*n` gets their number. Fewer than `cap`: no flow is due any more. With `cap` 0,
 * flows are ended and none is classified.
 * Errors: TGPT_E_RUNTIME from the engine: the flows stay due; TGPT_E_INVALID for a NULL; TGPT_E_BUSY where another
 * thread is inside this table.
 * Threads: one at a time per table.
 * Since: 0.1.0.
 */
tgpt_status tgpt_flows_poll(struct tgpt_flows *flows,
                            uint64_t now_ns,
                            struct tgpt_verdict *out,
                            size_t cap,
                            size_t *n,
                            struct tgpt_error *error);

/**
 * Gives the table another classifier, while packets flow. The next poll takes it in; no packet and no verdict is lost.
 *
 * Where its codebook is that of the classifier before, all flows go on with it. Where it is another, flows already begun
 * are finished by the classifier they began with and only new ones are given to this one. Up to four are kept that
 * way; a fifth waits until the flows of one have ended, and gives way to one that is swapped in after it.
 * `epoch`: NULL, or gets the number that its verdicts will carry, from 1. A label is to be read with the classifier of
 * its verdict's epoch.
 * Errors: TGPT_E_MISMATCH for a classifier that does not fit (see tgpt_flows_new); TGPT_E_INVALID for a NULL.
 * Threads: any, also while another is inside this table.
 * Since: 0.1.0.
 */
tgpt_status tgpt_flows_swap(const struct tgpt_flows *flows,
                            const struct tgpt_classifier *classifier,
                            uint32_t *epoch,
                            struct tgpt_error *error);

/**
 * Ends every flow: the polls after it give their final verdicts.
 *
 * Errors: TGPT_E_INVALID for a NULL; TGPT_E_BUSY where another thread is inside this table.
 * Threads: one at a time per table.
 * Since: 0.1.0.
 */
tgpt_status tgpt_flows_flush(struct tgpt_flows *flows, struct tgpt_error *error);

/**
 * What the table has counted, as of the last push or poll: a JSON object of numbers, among them `packets`, `flows`,
 * `flows_evicted`, `packets_refused`, `verdicts`, `flows_tracked`, `flows_due`, `max_flows`, and `memory` in bytes. New
 * ones may come.
 *
 * `json`: room for `cap` bytes, for text in UTF-8 with a NUL behind it. `needed`: NULL, or gets the bytes that takes.
 * Errors: TGPT_E_NOSPACE where `cap` is less than is needed: nothing but `*needed` is written; TGPT_E_INVALID for a
 * NULL.
 * Threads: any, also while another is inside this table.
 * Since: 0.1.0.
 */
tgpt_status tgpt_flows_stats(const struct tgpt_flows *flows,
                             char *json,
                             size_t cap,
                             size_t *needed,
                             struct tgpt_error *error);

/**
 * Frees a table, with the flows in it; NULL is legal. No call may be using it.
 *
 * Since: 0.1.0.
 */
void tgpt_flows_free(struct tgpt_flows *flows);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* TRAFFICGPT_H */
