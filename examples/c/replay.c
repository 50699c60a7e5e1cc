/* Sends generated flows on a network interface, each packet when its flow has it, and tells how well it kept to that.
 *
 *   cc -std=c99 -O2 replay.c $(pkg-config --cflags --libs trafficgpt) -o replay
 *   sudo ./replay -i eth0 --class TLS -n 200 --rate 50 model.tgpt
 *
 * Packets are UDP over IPv4 between addresses reserved for documentation, a 5-tuple for every flow; those of both sides
 * leave through the one interface, as a tap would show them. Linux only: it speaks to the interface by AF_PACKET.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <trafficgpt.h>
#include <unistd.h>

/* Exit codes, as of the trafficgpt command: 2 for what the user can mend. */
enum { DONE = 0, FAILED = 1, USAGE = 2 };

/* Headers in bytes, and the most of one packet with them. */
enum { ETHERNET = 14, IPV4 = 20, UDP = 8, LONGEST = 65535, FRAME = ETHERNET + LONGEST };

/* Of one run, which holds all packets in memory. */
#define MAX_FLOWS 100000u

/* Sleep until so long before a packet is due, then watch the clock: sleeping longer than asked for is usual. */
#define WATCH_NS 200000

static const char usage[] =
    "usage: replay -i INTERFACE [--class NAME] [-n FLOWS] [--rate N] [--seconds N] [--seed SEED] [--engine NAME] BUNDLE\n"
    "\n"
    "Sends generated flows on INTERFACE with their timing, and prints how late packets were. Needs the right to open raw\n"
    "sockets. Ctrl-C stops.\n"
    "\n"
    "  --class NAME   the class of the flows (default: flows of any kind)\n"
    "  -n FLOWS       how many (default: 100, at most 100000)\n"
    "  --rate N       so many flows begin every second (default: 10)\n"
    "  --seconds N    send nothing that is due later (default: send all)\n"
    "  --seed SEED    where the draws come from (default: 0)\n"
    "  --engine NAME  who runs the network: auto, native, onnx or cuda (default: auto)\n";

typedef struct {
  const char *interface, *class_name, *engine, *bundle;
  double n_flows, rate, seconds, seed;
} options;

/* A packet on its way: when, and of which flow. */
typedef struct {
  int64_t due_ns;
  uint32_t flow;
  int32_t size;
} event;

/* What is open, so that one place closes it. */
typedef struct {
  tgpt_config *config;
  tgpt_context *context;
  tgpt_worker *worker;
  tgpt_generator *generator;
  tgpt_packet *packets;
  uint64_t *offsets;
  event *events;
  int64_t *late_ns;
  int socket, mtu;
} state;

static volatile sig_atomic_t stopped;

static void stop(int signal_number) {
  (void)signal_number;
  stopped = 1;
}

static int fail(const char *what, tgpt_status status, const tgpt_error *error) {
  fprintf(stderr, "replay: %s: %s (%s, status %d)\n", what, error->msg, tgpt_status_str(status), (int)status);
  return status == TGPT_E_RUNTIME || status == TGPT_E_PANIC ? FAILED : USAGE;
}

static int system_failed(const char *what) {
  fprintf(stderr, "replay: %s: %s\n", what, strerror(errno));
  return USAGE;
}

/* A number from `low` to `high`. */
static int number(const char *name, const char *text, double low, double high, double *out) {
  char *end;
  *out = strtod(text, &end);
  if (*text == '\0' || *end != '\0' || !(*out >= low && *out <= high)) {
    fprintf(stderr, "replay: %s is \"%s\"; it must be a number from %g to %g\n", name, text, low, high);
    return 0;
  }
  return 1;
}

/* 0, or the exit code plus one. */
static int parse(int argc, char **argv, options *o) {
  int i;
  for (i = 1; i < argc; ++i) {
    const char *argument = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
    int good = 1;
    if (strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0) {
      fputs(usage, stdout);
      return DONE + 1;
    } else if (argument[0] != '-' && o->bundle == NULL) {
      o->bundle = argument;
      continue;
    } else if (argument[0] != '-' || value == NULL) {
      fprintf(stderr, "replay: %s %s\n%s", argument, argument[0] == '-' ? "needs a value" : "is one argument too many", usage);
      return USAGE + 1;
    } else if (strcmp(argument, "-i") == 0) {
      o->interface = value;
    } else if (strcmp(argument, "--class") == 0) {
      o->class_name = value;
    } else if (strcmp(argument, "--engine") == 0) {
      o->engine = value;
    } else if (strcmp(argument, "-n") == 0) {
      good = number("-n", value, 1, MAX_FLOWS, &o->n_flows);
    } else if (strcmp(argument, "--rate") == 0) {
      good = number("--rate", value, 1e-3, 1e9, &o->rate);
    } else if (strcmp(argument, "--seconds") == 0) {
      good = number("--seconds", value, 0, 1e9, &o->seconds);
    } else if (strcmp(argument, "--seed") == 0) {
      good = number("--seed", value, 0, 9007199254740992.0, &o->seed);
    } else {
      fprintf(stderr, "replay: there is no option %s\n%s", argument, usage);
      return USAGE + 1;
    }
    if (!good) return USAGE + 1;
    ++i;
  }
  if (o->bundle == NULL || o->interface == NULL) {
    fprintf(stderr, "replay: a bundle and -i INTERFACE are needed\n%s", usage);
    return USAGE + 1;
  }
  return 0;
}

/* A raw socket that sends on the interface, before anything is generated. */
static int open_interface(const options *o, state *s) {
  struct ifreq request;
  struct sockaddr_ll address;
  memset(&request, 0, sizeof request);
  memset(&address, 0, sizeof address);
  if (strlen(o->interface) >= sizeof request.ifr_name) {
    errno = ENODEV;
    return system_failed(o->interface);
  }
  memcpy(request.ifr_name, o->interface, strlen(o->interface));
  /* Protocol 0: nothing is received. */
  s->socket = socket(AF_PACKET, SOCK_RAW, 0);
  if (s->socket < 0) return system_failed("a raw socket");
  if (ioctl(s->socket, SIOCGIFMTU, &request) < 0) return system_failed(o->interface);
  s->mtu = request.ifr_mtu < LONGEST ? request.ifr_mtu : LONGEST;
  if (ioctl(s->socket, SIOCGIFINDEX, &request) < 0) return system_failed(o->interface);
  address.sll_family = AF_PACKET;
  address.sll_ifindex = request.ifr_ifindex;
  if (bind(s->socket, (struct sockaddr *)&address, sizeof address) < 0) return system_failed(o->interface);
  return DONE;
}

static int find_class(const state *s, const char *name, uint32_t *class_id) {
  const uint32_t n = tgpt_generator_n_classes(s->generator);
  for (*class_id = 0; *class_id < n; ++*class_id)
    if (strcmp(tgpt_generator_class(s->generator, *class_id), name) == 0) return 1;
  fprintf(stderr, "replay: the model has no class \"%s\"\n", name);
  return 0;
}

static int by_time(const void *a, const void *b) {
  const event *x = a, *y = b;
  if (x->due_ns != y->due_ns) return x->due_ns < y->due_ns ? -1 : 1;
  return x->flow < y->flow ? -1 : x->flow > y->flow;
}

/* When every packet is due, in order. Returns their number. */
static size_t schedule(const options *o, state *s, size_t n_flows) {
  size_t flow, n = 0;
  for (flow = 0; flow < n_flows; ++flow) {
    double at_ns = 1e9 * (double)flow / o->rate;
    uint64_t i;
    for (i = s->offsets[flow]; i < s->offsets[flow + 1]; ++i) {
      /* Times rise by a nanosecond at least, so that a flow's packets keep their order. */
      if (i > s->offsets[flow]) at_ns += 1e3 * (double)s->packets[i].ipt_us + 1;
      if (at_ns > 1e9 * o->seconds || at_ns > 9e18) break;
      s->events[n].due_ns = (int64_t)at_ns;
      s->events[n].flow = (uint32_t)flow;
      s->events[n].size = s->packets[i].size;
      ++n;
    }
  }
  qsort(s->events, n, sizeof *s->events, by_time);
  return n;
}

static void put16(uint8_t *out, uint32_t value) {
  out[0] = (uint8_t)(value >> 8);
  out[1] = (uint8_t)value;
}

/* The Internet's checksum of `n` bytes, RFC 1071, on top of `sum`. */
static uint32_t checksum(const uint8_t *bytes, size_t n, uint32_t sum) {
  size_t i;
  for (i = 0; i + 1 < n; i += 2) sum += (uint32_t)bytes[i] << 8 | bytes[i + 1];
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  return ~sum & 0xffff;
}

/* Builds the frame of a packet of `length` bytes; its payload is zeros. Returns the frame's length. */
static size_t build(uint8_t *frame, uint32_t flow, int from_server, uint32_t length) {
  uint8_t *const ip = frame + ETHERNET, *const udp = ip + IPV4;
  const uint32_t client = 0xC0000200u + 1 + flow % 254, server = 0xC6336401u;
  const uint32_t ports[2] = {49152 + flow / 254 % 16384, 9};
  const uint32_t from = from_server ? server : client, to = from_server ? client : server;
  const uint32_t udp_length = length - IPV4;
  uint32_t sum;
  memset(frame, 0, ETHERNET + IPV4 + UDP);
  /* Ethernet addresses that are administered locally. */
  frame[0] = frame[6] = 2;
  frame[5] = from_server ? 1 : 2;
  frame[11] = from_server ? 2 : 1;
  put16(frame + 12, 0x0800);
  ip[0] = 0x45;
  put16(ip + 2, length);
  ip[6] = 0x40;
  ip[8] = 64;
  ip[9] = 17;
  put16(ip + 12, from >> 16);
  put16(ip + 14, from & 0xffff);
  put16(ip + 16, to >> 16);
  put16(ip + 18, to & 0xffff);
  put16(ip + 10, checksum(ip, IPV4, 0));
  put16(udp, ports[from_server]);
  put16(udp + 2, ports[!from_server]);
  put16(udp + 4, udp_length);
  /* Over the addresses, the protocol and the length, then the header; zeros add nothing. */
  sum = (from >> 16) + (from & 0xffff) + (to >> 16) + (to & 0xffff) + 17 + udp_length;
  sum = checksum(udp, UDP, sum);
  put16(udp + 6, sum ? sum : 0xffff);
  return ETHERNET + length;
}

static int64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Comes back when it is `due_ns`, or when the user has asked to stop. */
static void wait_until(int64_t due_ns) {
  const int64_t wake_ns = due_ns - WATCH_NS;
  if (now_ns() < wake_ns) {
    struct timespec wake;
    wake.tv_sec = (time_t)(wake_ns / 1000000000);
    wake.tv_nsec = (long)(wake_ns % 1000000000);
    while (!stopped && clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &wake, NULL) == EINTR) {
    }
  }
  while (!stopped && now_ns() < due_ns) {
  }
}

static int by_value(const void *a, const void *b) {
  const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return x < y ? -1 : x > y;
}

/* Sends all packets, each when it is due. */
static int send_all(state *s, size_t n) {
  static uint8_t frame[FRAME];
  size_t i, sent = 0, changed = 0, full = 0;
  double bytes = 0;
  const int64_t start_ns = now_ns() + 10000000;
  for (i = 0; i < n && !stopped; ++i) {
    const int64_t due_ns = start_ns + s->events[i].due_ns;
    const int64_t size = s->events[i].size, wanted = size < 0 ? -size : size;
    const int64_t length = wanted < IPV4 + UDP ? IPV4 + UDP : wanted > s->mtu ? s->mtu : wanted;
    const size_t frame_length = build(frame, s->events[i].flow, size < 0, (uint32_t)length);
    wait_until(due_ns);
    if (stopped) break;
    s->late_ns[sent] = now_ns() - due_ns;
    while (send(s->socket, frame, frame_length, 0) < 0 && !stopped) {
      if (errno != ENOBUFS && errno != EAGAIN && errno != EINTR) return system_failed("send");
      ++full;
    }
    changed += length != wanted;
    bytes += (double)length;
    ++sent;
  }
  printf("%lu of %lu packets sent, %.0f bytes, in %.3f s\n", (unsigned long)sent, (unsigned long)n, bytes,
         (double)(now_ns() - start_ns) / 1e9);
  if (changed) printf("%lu packets were brought into 28..%d bytes\n", (unsigned long)changed, s->mtu);
  if (full) printf("the interface was busy %lu times\n", (unsigned long)full);
  if (sent == 0) return stopped ? DONE : FAILED;
  qsort(s->late_ns, sent, sizeof *s->late_ns, by_value);
  printf("timing error: median %.1f us, p99 %.1f us, max %.1f us\n", (double)s->late_ns[sent / 2] / 1e3,
         (double)s->late_ns[sent - 1 - sent / 100] / 1e3, (double)s->late_ns[sent - 1] / 1e3);
  return DONE;
}

static int replay(const options *o, state *s) {
  const size_t n_flows = (size_t)o->n_flows;
  tgpt_sampling sampling = TGPT_SAMPLING_INIT;
  tgpt_error error;
  tgpt_status status;
  size_t cap, n;
  int code;

#define TRY(what, call)                                         \
  do {                                                          \
    status = (call);                                            \
    if (status != TGPT_OK) return fail((what), status, &error); \
  } while (0)

  code = open_interface(o, s);
  if (code != DONE) return code;
  TRY("config", tgpt_config_new(&s->config, &error));
  TRY("--engine", tgpt_config_set(s->config, "engine", o->engine, &error));
  TRY("context", tgpt_context_new(s->config, NULL, &s->context, &error));
  TRY("bundle", tgpt_generator_open(s->context, o->bundle, &s->generator, &error));
  TRY("worker", tgpt_worker_new(s->context, &s->worker, &error));
  sampling.seed = (uint64_t)o->seed;
  sampling.flags = TGPT_SAMPLE_PACKETS;
  if (o->class_name != NULL && !find_class(s, o->class_name, &sampling.class_id)) return USAGE;

  cap = n_flows * tgpt_generator_max_packets(s->generator);
  s->packets = malloc((cap + 1) * sizeof *s->packets);
  s->offsets = malloc((n_flows + 1) * sizeof *s->offsets);
  s->events = malloc((cap + 1) * sizeof *s->events);
  s->late_ns = malloc((cap + 1) * sizeof *s->late_ns);
  if (s->packets == NULL || s->offsets == NULL || s->events == NULL || s->late_ns == NULL) {
    fprintf(stderr, "replay: no memory for %lu flows\n", (unsigned long)n_flows);
    return FAILED;
  }
  status = tgpt_generate(s->generator, s->worker, &sampling, n_flows, s->packets, cap, s->offsets, NULL, &error);
  if (status == TGPT_E_MISMATCH) {
    /* A bundle that does not know the packets behind its centroids. */
    fprintf(stderr, "replay: %s: sending centroids\n", error.msg);
    sampling.flags = 0;
    status = tgpt_generate(s->generator, s->worker, &sampling, n_flows, s->packets, cap, s->offsets, NULL, &error);
  }
  TRY("generate", status);
  n = schedule(o, s, n_flows);
  printf("%lu flows of %s, %lu packets, over %.3f s, on %s\n", (unsigned long)n_flows,
         o->class_name ? o->class_name : "any class", (unsigned long)n,
         n ? (double)s->events[n - 1].due_ns / 1e9 : 0.0, o->interface);
  fflush(stdout);
  return send_all(s, n);
}

int main(int argc, char **argv) {
  options o = {NULL, NULL, "auto", NULL, 100, 10, 1e9, 0};
  state s;
  int code = parse(argc, argv, &o);
  if (code != 0) return code - 1;
  if (tgpt_abi() != TGPT_ABI) {
    fprintf(stderr, "replay: the library has ABI %u, this program was compiled for %u\n", tgpt_abi(), TGPT_ABI);
    return FAILED;
  }
  memset(&s, 0, sizeof s);
  s.socket = -1;
  signal(SIGINT, stop);
  signal(SIGTERM, stop);
  code = replay(&o, &s);
  if (s.socket >= 0) close(s.socket);
  free(s.packets);
  free(s.offsets);
  free(s.events);
  free(s.late_ns);
  tgpt_worker_free(s.worker);
  tgpt_generator_free(s.generator);
  tgpt_context_free(s.context);
  tgpt_config_free(s.config);
  return code;
}
