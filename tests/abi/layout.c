/* Size, alignment and fields of every struct of the header, and every constant: what a compiled program relies on.
 * tests/c_abi.rs compares what this prints with tests/abi/layout.txt. */
#include <stdio.h>
#include <string.h>
#include <trafficgpt.h>

#define STRUCT(type) printf(#type " %lu\n", (unsigned long)sizeof(type))
#define FIELD(type, field) \
  printf("  " #field " %lu %lu\n", (unsigned long)offsetof(type, field), (unsigned long)sizeof(((type *)0)->field))
#define CONSTANT(name) printf(#name " %lld\n", (long long)(name))

/* The frozen structs have no padding: every byte belongs to a field. */
typedef char packet_is_frozen[sizeof(tgpt_packet) == 8 ? 1 : -1];
typedef char error_is_frozen[sizeof(tgpt_error) == 512 ? 1 : -1];
typedef char flow_info_is_frozen[sizeof(tgpt_flow_info) == 16 + 16 + 3 * 8 + 2 * 2 + 2 + 10 ? 1 : -1];

typedef char observation_is_frozen[sizeof(tgpt_observation) == 8 + 2 * 16 + 2 * 2 + 2 * 4 + 2 + 10 ? 1 : -1];
typedef char frame_info_is_frozen[sizeof(tgpt_frame_info) == 8 + 2 * 4 ? 1 : -1];
typedef char verdict_is_frozen[sizeof(tgpt_verdict) == 2 * 16 + 2 * 8 + 5 * 4 + 2 * 2 + 5 + 3 ? 1 : -1];

int main(void) {
  STRUCT(tgpt_error);
  FIELD(tgpt_error, code);
  FIELD(tgpt_error, msg);
  STRUCT(tgpt_hooks);
  FIELD(tgpt_hooks, type_size);
  FIELD(tgpt_hooks, user);
  FIELD(tgpt_hooks, log);
  FIELD(tgpt_hooks, reserved);
  STRUCT(tgpt_packet);
  FIELD(tgpt_packet, size);
  FIELD(tgpt_packet, ipt_us);
  STRUCT(tgpt_flow_info);
  FIELD(tgpt_flow_info, client);
  FIELD(tgpt_flow_info, server);
  FIELD(tgpt_flow_info, start_ns);
  FIELD(tgpt_flow_info, end_ns);
  FIELD(tgpt_flow_info, n_packets);
  FIELD(tgpt_flow_info, client_port);
  FIELD(tgpt_flow_info, server_port);
  FIELD(tgpt_flow_info, protocol);
  FIELD(tgpt_flow_info, ip_version);
  FIELD(tgpt_flow_info, reserved);
  STRUCT(tgpt_sampling);
  FIELD(tgpt_sampling, type_size);
  FIELD(tgpt_sampling, seed);
  FIELD(tgpt_sampling, first_flow);
  FIELD(tgpt_sampling, class_id);
  FIELD(tgpt_sampling, max_packets);
  FIELD(tgpt_sampling, top_k);
  FIELD(tgpt_sampling, top_p);
  FIELD(tgpt_sampling, temperature);
  FIELD(tgpt_sampling, flags);
  FIELD(tgpt_sampling, min_packets);
  FIELD(tgpt_sampling, n_banned);
  FIELD(tgpt_sampling, banned);
  FIELD(tgpt_sampling, reserved);
  STRUCT(tgpt_observation);
  FIELD(tgpt_observation, ts_ns);
  FIELD(tgpt_observation, src);
  FIELD(tgpt_observation, dst);
  FIELD(tgpt_observation, src_port);
  FIELD(tgpt_observation, dst_port);
  FIELD(tgpt_observation, size);
  FIELD(tgpt_observation, zone);
  FIELD(tgpt_observation, protocol);
  FIELD(tgpt_observation, tcp_flags);
  FIELD(tgpt_observation, reserved);
  STRUCT(tgpt_frame_info);
  FIELD(tgpt_frame_info, ts_ns);
  FIELD(tgpt_frame_info, captured);
  FIELD(tgpt_frame_info, wire_len);
  STRUCT(tgpt_verdict);
  FIELD(tgpt_verdict, client);
  FIELD(tgpt_verdict, server);
  FIELD(tgpt_verdict, start_ns);
  FIELD(tgpt_verdict, last_ns);
  FIELD(tgpt_verdict, n_packets);
  FIELD(tgpt_verdict, zone);
  FIELD(tgpt_verdict, label);
  FIELD(tgpt_verdict, score);
  FIELD(tgpt_verdict, epoch);
  FIELD(tgpt_verdict, client_port);
  FIELD(tgpt_verdict, server_port);
  FIELD(tgpt_verdict, protocol);
  FIELD(tgpt_verdict, ip_version);
  FIELD(tgpt_verdict, reason);
  FIELD(tgpt_verdict, is_final);
  FIELD(tgpt_verdict, n_read);
  FIELD(tgpt_verdict, reserved);
  CONSTANT(TGPT_ABI);
  CONSTANT(TGPT_UNKNOWN);
  CONSTANT(TGPT_REASON_COUNT);
  CONSTANT(TGPT_REASON_CONFIDENT);
  CONSTANT(TGPT_REASON_TCP_END);
  CONSTANT(TGPT_REASON_IDLE);
  CONSTANT(TGPT_REASON_ACTIVE);
  CONSTANT(TGPT_REASON_EVICTED);
  CONSTANT(TGPT_REASON_FLUSHED);
  CONSTANT(TGPT_LOG_ERROR);
  CONSTANT(TGPT_LOG_INFO);
  CONSTANT(TGPT_OK);
  CONSTANT(TGPT_E_INVALID);
  CONSTANT(TGPT_E_NOMEM);
  CONSTANT(TGPT_E_IO);
  CONSTANT(TGPT_E_FORMAT);
  CONSTANT(TGPT_E_VERSION);
  CONSTANT(TGPT_E_MISMATCH);
  CONSTANT(TGPT_E_NO_RUNTIME);
  CONSTANT(TGPT_E_RUNTIME);
  CONSTANT(TGPT_E_BUSY);
  CONSTANT(TGPT_E_NOSPACE);
  CONSTANT(TGPT_E_PANIC);
  /* The header's numbers are the library's. */
  return !(tgpt_abi() == TGPT_ABI && strcmp(tgpt_version(), TGPT_VERSION) == 0);
}
