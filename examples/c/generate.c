/* Generates flows from a seed: a summary to look at, and every packet as a row of CSV.
 *
 *   cc -std=c99 generate.c $(pkg-config --cflags --libs trafficgpt) -o generate
 *   ./generate --class dns -n 200 --seed 7 model.tgpt flows.csv
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <trafficgpt.h>

/* Exit codes, as of the trafficgpt command: 2 for what the user can mend. */
enum { DONE = 0, FAILED = 1, USAGE = 2 };

/* Of one run, which holds all flows in memory: up to 1 KB each. */
#define MAX_FLOWS 1000000u

static const char usage[] =
    "usage: generate [--class NAME] [-n FLOWS] [--seed SEED] [--engine auto|native|onnx|cuda] [--onnx-library FILE]\n"
    "                BUNDLE OUT.csv\n"
    "\n"
    "Writes OUT.csv with one row per packet: flow, packet, size (bytes; negative from the server), ipt_us (since the\n"
    "packet before). The same seed gives the same flows.\n"
    "\n"
    "  --class NAME         the class of the flows (default: flows of any kind)\n"
    "  -n FLOWS             how many (default: 100, at most 1000000)\n"
    "  --seed SEED          where the draws come from (default: 0)\n"
    "  --engine NAME        who runs the network (default: auto)\n"
    "  --onnx-library FILE  where ONNX Runtime's shared library is (default: searched for)\n";

typedef struct {
  const char *class_name, *engine, *onnx_library, *bundle, *out;
  unsigned long long n_flows, seed;
} options;

static int fail(const char *what, tgpt_status status, const tgpt_error *error) {
  fprintf(stderr, "generate: %s: %s (%s, status %d)\n", what, error->msg, tgpt_status_str(status), (int)status);
  return status == TGPT_E_RUNTIME || status == TGPT_E_PANIC ? FAILED : USAGE;
}

static int number(const char *name, const char *text, unsigned long long *out) {
  char *end;
  errno = 0;
  *out = strtoull(text, &end, 10);
  if (errno != 0 || *text < '0' || *text > '9' || *end != '\0') {
    fprintf(stderr, "generate: %s is \"%s\"; it must be a whole number\n", name, text);
    return 0;
  }
  return 1;
}

/* 0, or the exit code plus one. */
static int parse(int argc, char **argv, options *o) {
  int i;
  for (i = 1; i < argc; ++i) {
    const char *argument = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
    if (strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0) {
      fputs(usage, stdout);
      return DONE + 1;
    } else if (argument[0] == '-' && value == NULL) {
      fprintf(stderr, "generate: %s needs a value\n%s", argument, usage);
      return USAGE + 1;
    } else if (strcmp(argument, "--class") == 0) {
      o->class_name = value, ++i;
    } else if (strcmp(argument, "--engine") == 0) {
      o->engine = value, ++i;
    } else if (strcmp(argument, "--onnx-library") == 0) {
      o->onnx_library = value, ++i;
    } else if (strcmp(argument, "-n") == 0) {
      if (!number("-n", value, &o->n_flows)) return USAGE + 1;
      if (o->n_flows > MAX_FLOWS) {
        fprintf(stderr, "generate: -n is %s; it must be in 0..=%u\n", value, MAX_FLOWS);
        return USAGE + 1;
      }
      ++i;
    } else if (strcmp(argument, "--seed") == 0) {
      if (!number("--seed", value, &o->seed)) return USAGE + 1;
      ++i;
    } else if (argument[0] == '-') {
      fprintf(stderr, "generate: there is no option %s\n%s", argument, usage);
      return USAGE + 1;
    } else if (o->bundle == NULL) {
      o->bundle = argument;
    } else if (o->out == NULL) {
      o->out = argument;
    } else {
      fprintf(stderr, "generate: %s is one argument too many\n%s", argument, usage);
      return USAGE + 1;
    }
  }
  if (o->out == NULL) {
    fprintf(stderr, "generate: a bundle and a file to write are needed\n%s", usage);
    return USAGE + 1;
  }
  return 0;
}

/* The class called `name`, or 0 with the names there are on stderr. */
static int find_class(const tgpt_generator *generator, const char *name, uint32_t *class_id) {
  const uint32_t n = tgpt_generator_n_classes(generator);
  uint32_t i;
  for (i = 0; i < n; ++i) {
    if (strcmp(tgpt_generator_class(generator, i), name) == 0) {
      *class_id = i;
      return 1;
    }
  }
  fprintf(stderr, "generate: the model has no class \"%s\"; it has", name);
  for (i = 0; i < n; ++i) fprintf(stderr, "%s %s", i ? "," : "", tgpt_generator_class(generator, i));
  fprintf(stderr, "%s\n", n ? "" : " none");
  return 0;
}

/* Writes beside `path` and renames: there is never half a file under that name. */
static int write_csv(const char *path, const tgpt_packet *packets, const uint64_t *offsets, size_t n_flows) {
  const size_t length = strlen(path);
  char *part = malloc(length + sizeof ".part");
  FILE *file;
  size_t flow;
  uint64_t i;
  int good;
  if (part == NULL) {
    fprintf(stderr, "generate: no memory\n");
    return 0;
  }
  memcpy(part, path, length);
  memcpy(part + length, ".part", sizeof ".part");
  file = fopen(part, "w");
  good = file != NULL;
  if (good) {
    fprintf(file, "flow,packet,size,ipt_us\n");
    for (flow = 0; flow < n_flows; ++flow) {
      for (i = offsets[flow]; i < offsets[flow + 1]; ++i) {
        fprintf(file, "%lu,%lu,%ld,%.9g\n", (unsigned long)flow, (unsigned long)(i - offsets[flow]),
                (long)packets[i].size, (double)packets[i].ipt_us);
      }
    }
    good = !ferror(file);
    good = fclose(file) == 0 && good && rename(part, path) == 0;
  }
  if (!good) {
    fprintf(stderr, "generate: %s: %s\n", path, strerror(errno));
    if (file != NULL) remove(part);
  }
  free(part);
  return good;
}

static void summarise(const tgpt_packet *packets, const uint64_t *offsets, size_t n_flows) {
  const uint64_t n = offsets[n_flows];
  double to_server = 0, to_client = 0, seconds = 0;
  uint64_t i, longest = 0;
  size_t flow;
  for (i = 0; i < n; ++i) {
    if (packets[i].size > 0) to_server += packets[i].size;
    else to_client -= packets[i].size;
    seconds += (double)packets[i].ipt_us / 1e6;
  }
  for (flow = 0; flow < n_flows; ++flow) {
    const uint64_t length = offsets[flow + 1] - offsets[flow];
    if (length > longest) longest = length;
  }
  printf("%lu flows, %lu packets\n", (unsigned long)n_flows, (unsigned long)n);
  if (n_flows == 0) return;
  printf("per flow: %.1f packets (longest %lu), %.0f bytes to the server, %.0f to the client, %.3f s\n",
         (double)n / (double)n_flows, (unsigned long)longest, to_server / (double)n_flows, to_client / (double)n_flows,
         seconds / (double)n_flows);
  printf("first flow:");
  for (i = 0; i < offsets[1] && i < 8; ++i) printf(" %ld B +%.0f us", (long)packets[i].size, (double)packets[i].ipt_us);
  printf("%s\n", offsets[1] > 8 ? " ..." : "");
}

/* What is open, so that one place closes it. */
typedef struct {
  tgpt_config *config;
  tgpt_context *context;
  tgpt_worker *worker;
  tgpt_generator *generator;
  tgpt_packet *packets;
  uint64_t *offsets;
} state;

static int generate(const options *o, state *s) {
  const size_t n_flows = (size_t)o->n_flows;
  tgpt_sampling sampling = TGPT_SAMPLING_INIT;
  tgpt_error error;
  tgpt_status status;
  size_t cap;

#define TRY(what, call)                                              \
  do {                                                               \
    status = (call);                                                 \
    if (status != TGPT_OK) return fail((what), status, &error);      \
  } while (0)

  TRY("config", tgpt_config_new(&s->config, &error));
  TRY("--engine", tgpt_config_set(s->config, "engine", o->engine, &error));
  TRY("--onnx-library", tgpt_config_set(s->config, "onnx.library", o->onnx_library, &error));
  TRY("context", tgpt_context_new(s->config, NULL, &s->context, &error));
  TRY("bundle", tgpt_generator_open(s->context, o->bundle, &s->generator, &error));
  TRY("worker", tgpt_worker_new(s->context, &s->worker, &error));

  sampling.seed = o->seed;
  if (o->class_name != NULL && !find_class(s->generator, o->class_name, &sampling.class_id)) return USAGE;

  /* The most that so many flows can have: one call is enough. */
  cap = n_flows * tgpt_generator_max_packets(s->generator);
  s->packets = malloc((cap + 1) * sizeof *s->packets);
  s->offsets = malloc((n_flows + 1) * sizeof *s->offsets);
  if (s->packets == NULL || s->offsets == NULL) {
    fprintf(stderr, "generate: no memory for %llu flows\n", o->n_flows);
    return FAILED;
  }
  TRY("generate",
      tgpt_generate(s->generator, s->worker, &sampling, n_flows, s->packets, cap, s->offsets, NULL, &error));
  if (!write_csv(o->out, s->packets, s->offsets, n_flows)) return USAGE;
  printf("%s from seed %llu on engine %s, written to %s\n", o->class_name ? o->class_name : "any class", o->seed,
         tgpt_generator_engine(s->generator), o->out);
  summarise(s->packets, s->offsets, n_flows);
  return DONE;
}

int main(int argc, char **argv) {
  options o = {NULL, "auto", "", NULL, NULL, 100, 0};
  state s = {NULL, NULL, NULL, NULL, NULL, NULL};
  int code = parse(argc, argv, &o);
  if (code != 0) return code - 1;
  if (tgpt_abi() != TGPT_ABI) {
    fprintf(stderr, "generate: the library has ABI %u, this program was compiled for %u\n", tgpt_abi(), TGPT_ABI);
    return FAILED;
  }
  code = generate(&o, &s);
  free(s.packets);
  free(s.offsets);
  tgpt_worker_free(s.worker);
  tgpt_generator_free(s.generator);
  tgpt_context_free(s.context);
  tgpt_config_free(s.config);
  return code;
}
