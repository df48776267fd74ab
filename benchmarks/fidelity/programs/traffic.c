/* See traffic.h for what is promised. */
#define _GNU_SOURCE
#include "traffic.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PROBE_PACKETS 300
#define TRIM_PACKETS 21
#define MOST_TRIM_NS 300000
#define FLOOD_NS 1000000000LL
#define UDP_PAYLOAD 1472
#define UDP_WIRE 1514
#define CHUNK (1 << 18)

struct flow {
	int socket;
	int64_t size_bytes, at_ns;
	pthread_barrier_t *start;
};

static void check(int failed, const char *what)
{
	if (failed) {
		perror(what);
		exit(1);
	}
}

static void sleep_until(int64_t at_ns)
{
	struct timespec at = {at_ns / 1000000000, at_ns % 1000000000};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR)
		;
}

void enter(int namespace_fd)
{
	check(setns(namespace_fd, CLONE_NEWNET) < 0, "setns");
}

static struct sockaddr_in address(const char *host, int port)
{
	struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};

	inet_pton(AF_INET, host, &where.sin_addr);
	return where;
}

static void set(int socket, int level, int option, int value, const char *what)
{
	check(setsockopt(socket, level, option, &value, sizeof value) < 0, what);
}

int listen_for_flows(const struct plan *plan)
{
	struct sockaddr_in where = address("0.0.0.0", TARGET_PORT);
	int listening;

	enter(plan->receiver_namespace);
	listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	check(listening < 0, "socket");
	set(listening, SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR");
	check(bind(listening, (struct sockaddr *)&where, sizeof where) < 0, "bind");
	check(listen(listening, MAXIMUM_FLOWS) < 0, "listen");
	return listening;
}

static int connect_flow(const struct plan *plan)
{
	struct sockaddr_in where = address(plan->target, TARGET_PORT);
	int made = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	check(made < 0, "socket");
	check(setsockopt(made, IPPROTO_TCP, TCP_CONGESTION, plan->law, (socklen_t)strlen(plan->law)) < 0,
	      plan->law);
	set(made, IPPROTO_TCP, TCP_NODELAY, 1, "TCP_NODELAY");
	check(connect(made, (struct sockaddr *)&where, sizeof where) < 0, "connect");
	return made;
}

static void *send_all(void *argument)
{
	static const char chunk[CHUNK];
	struct flow *flow = argument;
	int64_t left = flow->size_bytes;

	pthread_barrier_wait(flow->start);
	flow->at_ns = now_ns();
	while (left > 0) {
		ssize_t sent = send(flow->socket, chunk, (size_t)(left < CHUNK ? left : CHUNK), MSG_NOSIGNAL);

		check(sent < 0, "send");
		left -= sent;
	}
	return NULL;
}

static void *receive_all(void *argument)
{
	struct flow *flow = argument;
	int64_t left = flow->size_bytes;
	char *chunk = malloc(CHUNK);

	pthread_barrier_wait(flow->start);
	while (left > 0) {
		ssize_t got = recv(flow->socket, chunk, CHUNK, 0);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0) {
			fprintf(stderr, "a connection ended before its last byte: %s\n", strerror(errno));
			exit(1);
		}
		left -= got;
	}
	flow->at_ns = now_ns();
	free(chunk);
	return NULL;
}

/* Waits until nothing of the transfer is left on the route, then ends the connections. */
static void finish(const struct plan *plan, struct relay *relay, struct flow *ends, int count)
{
	struct linger at_once = {.l_onoff = 1, .l_linger = 0};
	int64_t until_ns = now_ns() + plan->drain_ns;

	sleep_until(now_ns() + 2 * plan->route_delay_ns + 5000000);
	while (relay_waiting(relay) && now_ns() < until_ns && plan->cross_bps <= 0)
		sleep_until(now_ns() + 2000000);
	for (int i = 0; i < count; i++) {
		setsockopt(ends[i].socket, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
		close(ends[i].socket);
	}
	sleep_until(now_ns() + plan->route_delay_ns + 2000000);
}

void transfer(const struct plan *plan, struct relay *relay, int listening, uint64_t seed)
{
	struct flow senders[MAXIMUM_FLOWS], receivers[MAXIMUM_FLOWS];
	pthread_t sending[MAXIMUM_FLOWS], receiving[MAXIMUM_FLOWS];
	pthread_barrier_t start;
	struct tcp_info told[MAXIMUM_FLOWS];
	int64_t lost = atomic_load(&relay->lost), retransmitted = 0;

	atomic_store(&relay->late_ns, 0);
	pthread_barrier_init(&start, NULL, (unsigned)(2 * plan->flows));
	for (int i = 0; i < plan->flows; i++) {
		struct flow flow = {.size_bytes = plan->size_bytes, .start = &start};

		senders[i] = receivers[i] = flow;
		enter(plan->sender_namespace);
		senders[i].socket = connect_flow(plan);
		enter(plan->receiver_namespace);
		receivers[i].socket = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
		check(receivers[i].socket < 0, "accept");
	}
	sleep_until(now_ns() + 2 * plan->route_delay_ns + 10000000);
	relay_seed(relay, seed);
	atomic_store(&relay->lossy, 1);
	for (int i = 0; i < plan->flows; i++) {
		pthread_create(&receiving[i], NULL, receive_all, &receivers[i]);
		pthread_create(&sending[i], NULL, send_all, &senders[i]);
	}
	for (int i = 0; i < plan->flows; i++) {
		pthread_join(sending[i], NULL);
		pthread_join(receiving[i], NULL);
	}
	atomic_store(&relay->lossy, 0);
	for (int i = 0; i < plan->flows; i++) {
		socklen_t length = sizeof told[i];

		memset(&told[i], 0, sizeof told[i]);
		getsockopt(senders[i].socket, IPPROTO_TCP, TCP_INFO, &told[i], &length);
		retransmitted += told[i].tcpi_total_retrans;
	}
	printf("{\"seed\": %llu, \"seconds\": [", (unsigned long long)seed);
	for (int i = 0; i < plan->flows; i++)
		printf("%s%.6f", i ? ", " : "", (double)(receivers[i].at_ns - senders[i].at_ns) / 1e9);
	printf("], \"lost\": %lld, \"retransmitted\": %lld, \"late_us\": %.0f, \"overflown\": %lld, "
	       "\"mss\": %u, \"rto_us\": %u}\n",
	       (long long)(atomic_load(&relay->lost) - lost), (long long)retransmitted,
	       (double)atomic_load(&relay->late_ns) / 1e3, (long long)atomic_load(&relay->overflown),
	       told[0].tcpi_snd_mss, told[0].tcpi_rto);
	fflush(stdout);
	finish(plan, relay, senders, plan->flows);
	for (int i = 0; i < plan->flows; i++)
		close(receivers[i].socket);
	pthread_barrier_destroy(&start);
}

struct stream { /* a UDP stream at a constant rate, until `until_ns` */
	int socket;
	double ns_per_packet;
	int64_t until_ns;
};

static void *stream(void *argument)
{
	struct stream *steady = argument;
	char payload[UDP_PAYLOAD] = {0};
	double next_ns = (double)now_ns();
	struct sched_param ordinary = {.sched_priority = 0};

	pthread_setschedparam(pthread_self(), SCHED_OTHER, &ordinary); /* it may spin */

	while (now_ns() < steady->until_ns) {
		int64_t sent_ns = now_ns();

		memcpy(payload, &sent_ns, sizeof sent_ns);
		send(steady->socket, payload, sizeof payload, MSG_DONTWAIT);
		next_ns += steady->ns_per_packet;
		if (next_ns > (double)now_ns() + 20e3)
			sleep_until((int64_t)next_ns);
		else
			while (next_ns > (double)now_ns())
				;
	}
	return NULL;
}

static int udp_target(const struct plan *plan, int port)
{
	struct sockaddr_in where = address("0.0.0.0", port);
	int made;

	enter(plan->receiver_namespace);
	made = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	check(made < 0 || bind(made, (struct sockaddr *)&where, sizeof where) < 0, "bind udp");
	return made;
}

static int udp_source(const struct plan *plan, int port)
{
	struct sockaddr_in where = address(plan->target, port);
	int made;

	enter(plan->sender_namespace);
	made = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	check(made < 0 || connect(made, (struct sockaddr *)&where, sizeof where) < 0, "connect udp");
	return made;
}

void start_cross_traffic(const struct plan *plan)
{
	static struct stream steady;
	pthread_t thread;

	if (plan->cross_bps <= 0)
		return;
	set(udp_target(plan, 5002), SOL_SOCKET, SO_RCVBUF, 4096, "SO_RCVBUF"); /* nobody reads it */
	steady = (struct stream){.socket = udp_source(plan, 5002),
				 .ns_per_packet = UDP_WIRE * 8e9 / plan->cross_bps,
				 .until_ns = INT64_MAX};
	pthread_create(&thread, NULL, stream, &steady);
	pthread_detach(thread);
	sleep_until(now_ns() + plan->route_delay_ns + 200000000);
}

static int ascending(const void *a, const void *b)
{
	double difference = *(const double *)a - *(const double *)b;

	return (difference > 0) - (difference < 0);
}

/* How much later than it should, in µs, each of `count` packets comes over the route. */
static void delay_errors(const struct plan *plan, const struct relay *relay, int source, int target,
			 int count, double *late_us)
{
	double expected_ns = (double)plan->route_delay_ns;
	char payload[UDP_PAYLOAD] = {0};

	for (int i = 0; i < relay->count; i++)
		expected_ns += UDP_WIRE * 8e9 / relay->hops[i].bandwidth_bps;
	for (int i = 0; i < count; i++) {
		int64_t sent_ns = now_ns();

		memcpy(payload, &sent_ns, sizeof sent_ns);
		send(source, payload, sizeof payload, 0);
		check(recv(target, payload, sizeof payload, 0) < 0, "a probe was lost");
		memcpy(&sent_ns, payload, sizeof sent_ns);
		late_us[i] = ((double)(now_ns() - sent_ns) - expected_ns) / 1e3;
		sleep_until(now_ns() + 500000);
	}
	qsort(late_us, (size_t)count, sizeof *late_us, ascending);
}

/* The rate that comes through when more is sent than the route can carry, in bit/s of frames. */
static double flooded_bps(int source, int target, double slowest_ns_per_byte)
{
	char payload[UDP_PAYLOAD];
	struct stream flood = {.socket = source,
			       .ns_per_packet = UDP_WIRE * slowest_ns_per_byte / 1.1,
			       .until_ns = now_ns() + FLOOD_NS};
	int64_t first_ns = 0, last_ns = 0;
	int packets = 0;
	pthread_t thread;

	pthread_create(&thread, NULL, stream, &flood);
	while (last_ns < flood.until_ns && recv(target, payload, sizeof payload, 0) > 0) {
		last_ns = now_ns();
		first_ns = packets++ ? first_ns : last_ns;
	}
	pthread_join(thread, NULL);
	while (recv(target, payload, sizeof payload, 0) > 0)
		; /* until the queue is empty again */
	return (double)(packets - 1) * UDP_WIRE * 8 / ((double)(last_ns - first_ns) / 1e9);
}

/* Takes from the relay's delay what the rest of the way costs, so that the whole is as asked. With
 * `thoroughly` tells what error remains, and the rate.
 */
void probe(const struct plan *plan, struct relay *relay, int thoroughly)
{
	double late_us[PROBE_PACKETS], untrimmed_us, slowest = 0, rate;
	int target = udp_target(plan, 5003), source = udp_source(plan, 5003);
	struct timeval patience = {1, 0};
	int64_t trim_ns;

	setsockopt(target, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	setsockopt(target, SOL_SOCKET, SO_RCVBUFFORCE, &(int){1 << 26}, sizeof(int));
	delay_errors(plan, relay, source, target, TRIM_PACKETS, late_us);
	untrimmed_us = late_us[TRIM_PACKETS / 2];
	trim_ns = (int64_t)(untrimmed_us * 1e3);
	if (trim_ns > MOST_TRIM_NS)
		trim_ns = MOST_TRIM_NS;
	if (trim_ns > 0 && trim_ns < relay->hops[0].delay_ns) {
		relay->hops[0].forward.delay_ns -= trim_ns;
		relay->hops[0].back.delay_ns -= trim_ns;
	}
	if (thoroughly) {
		delay_errors(plan, relay, source, target, PROBE_PACKETS, late_us);
		for (int i = 0; i < relay->count; i++) {
			double ns_per_byte = 8e9 / relay->hops[i].bandwidth_bps;

			slowest = ns_per_byte > slowest ? ns_per_byte : slowest;
		}
		rate = flooded_bps(source, target, slowest);
		printf("{\"untrimmed_us\": %.1f, \"delay_error_us\": {\"p50\": %.1f, \"p99\": %.1f}, "
		       "\"rate_bps\": %.0f, \"rate_error\": %.5f}\n",
		       untrimmed_us, late_us[PROBE_PACKETS / 2], late_us[PROBE_PACKETS * 99 / 100], rate,
		       rate * slowest / 8e9 - 1);
		fflush(stdout);
	}
	close(target);
	close(source);
}
