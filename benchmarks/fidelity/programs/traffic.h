/* What runs over the route: TCP transfers that are timed, a steady UDP stream, and probes.
 *
 * A transfer is `size` bytes over an established connection. Its figure is the instant at which the
 * last byte was received less the instant of the send call; CLOCK_MONOTONIC is one clock for all
 * network namespaces. Sockets are made by the main thread, which changes namespaces; the threads
 * only use them.
 */
#ifndef FIDELITY_TRAFFIC_H
#define FIDELITY_TRAFFIC_H

#include <stdint.h>

#include "relay.h"

#define MAXIMUM_FLOWS 64
#define TARGET_PORT 5001

struct plan {
	int64_t size_bytes;
	int flows, exact;
	double cross_bps;
	const char *law;
	char target[32];
	int sender_namespace, receiver_namespace;
	int64_t route_delay_ns, slowest_packet_ns, drain_ns;
};

void enter(int namespace_fd);
int listen_for_flows(const struct plan *plan);
void start_cross_traffic(const struct plan *plan);
void transfer(const struct plan *plan, struct relay *relay, int listening, uint64_t seed);
void probe(const struct plan *plan, struct relay *relay, int thoroughly);

#endif
