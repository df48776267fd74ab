/* See relay.h for what is promised. */
#define _GNU_SOURCE
#include "relay.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64

int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static uint64_t splitmix(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15ULL);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

static void prepare_lane(struct lane *lane, const struct hop *hop)
{
	double bytes = hop->bandwidth_bps * (double)hop->delay_ns / 8e9;
	uint64_t wanted = (uint64_t)((bytes + 2.0 * (double)hop->burst_bytes) / 400.0) + 2048;
	uint64_t slots = 1;

	while (slots < wanted)
		slots *= 2;
	lane->ns_per_byte = 8e9 / hop->bandwidth_bps;
	lane->delay_ns = hop->delay_ns;
	lane->mask = slots - 1;
	lane->slots = malloc(slots * sizeof *lane->slots);
	if (!lane->slots) {
		perror("malloc");
		exit(1);
	}
}

void relay_prepare(struct relay *relay)
{
	for (int i = 0; i < relay->count; i++) {
		prepare_lane(&relay->hops[i].forward, &relay->hops[i]);
		prepare_lane(&relay->hops[i].back, &relay->hops[i]);
	}
}

void relay_seed(struct relay *relay, uint64_t seed)
{
	for (int i = 0; i < relay->count; i++) {
		uint64_t mixed = seed * 0x2545f4914f6cdd1dULL + (uint64_t)i;

		relay->hops[i].random = splitmix(&mixed);
	}
}

int64_t relay_waiting(const struct relay *relay)
{
	int64_t waiting = 0;

	for (int i = 0; i < relay->count; i++) {
		const struct hop *hop = &relay->hops[i];

		waiting += (int64_t)(hop->forward.tail - hop->forward.head);
		waiting += (int64_t)(hop->back.tail - hop->back.head);
	}
	return waiting;
}

static int is_lost(struct relay *relay, struct hop *hop)
{
	if (hop->loss <= 0 || !atomic_load_explicit(&relay->lossy, memory_order_relaxed))
		return 0;
	if ((double)(splitmix(&hop->random) >> 11) * 0x1p-53 >= hop->loss)
		return 0;
	atomic_fetch_add(&relay->lost, 1);
	return 1;
}

/* Reads what one end has sent; says how many packets. */
static int take(struct relay *relay, struct hop *hop, struct lane *lane, int forward)
{
	int packets = 0;

	while (packets < BATCH) {
		uint8_t spare[MAXIMUM_PACKET];
		int full = lane->tail - lane->head > lane->mask;
		struct slot *slot = &lane->slots[lane->tail & lane->mask];
		ssize_t length = read(lane->from, full ? spare : slot->data, MAXIMUM_PACKET);
		int64_t now;

		if (length <= 0) {
			if (length < 0 && errno != EAGAIN && errno != EINTR) {
				perror("read from a TUN device");
				exit(1);
			}
			break;
		}
		packets++;
		now = now_ns();
		if (lane->departed_ns < now)
			lane->departed_ns = now;
		lane->departed_ns += (int64_t)((double)(length + FRAME_BYTES) * lane->ns_per_byte);
		if (forward && is_lost(relay, hop))
			continue;
		if (full) {
			atomic_fetch_add(&relay->overflown, 1);
			continue;
		}
		slot->length = (uint32_t)length;
		slot->due_ns = lane->departed_ns + lane->delay_ns;
		lane->tail++;
	}
	return packets;
}

/* Writes what is due; says when the next one is. */
static int64_t give(struct relay *relay, struct lane *lane)
{
	int packets = 0;

	while (lane->head != lane->tail) {
		struct slot *slot = &lane->slots[lane->head & lane->mask];
		int64_t now = now_ns();

		if (slot->due_ns > now)
			return slot->due_ns;
		if (packets++ == BATCH)
			return now;
		if (now - slot->due_ns > atomic_load_explicit(&relay->late_ns, memory_order_relaxed))
			atomic_store(&relay->late_ns, now - slot->due_ns);
		if (write(lane->to, slot->data, slot->length) < 0 && errno != EAGAIN && errno != EIO) {
			perror("write to a TUN device");
			exit(1);
		}
		atomic_fetch_add_explicit(&relay->carried, 1, memory_order_relaxed);
		lane->head++;
	}
	return INT64_MAX;
}

static void *run_side(void *argument)
{
	struct side *side = argument;
	struct relay *relay = side->relay;
	struct pollfd ends[MAXIMUM_HOPS];

	for (int i = 0; i < relay->count; i++) {
		struct hop *hop = &relay->hops[i];

		ends[i].fd = side->forward ? hop->forward.from : hop->back.from;
		ends[i].events = POLLIN;
	}
	while (!atomic_load_explicit(&relay->stop, memory_order_relaxed)) {
		int64_t next_ns = INT64_MAX, wait_ns;
		int busy = 0;

		for (int i = 0; i < relay->count; i++) {
			struct hop *hop = &relay->hops[i];
			struct lane *lane = side->forward ? &hop->forward : &hop->back;
			int64_t due_ns;

			busy += take(relay, hop, lane, side->forward);
			due_ns = give(relay, lane);
			next_ns = due_ns < next_ns ? due_ns : next_ns;
		}
		wait_ns = next_ns == INT64_MAX ? 100000000 : next_ns - now_ns() - relay->spin_ns;
		if (busy || wait_ns < 0)
			continue;
		struct timespec wait = {wait_ns / 1000000000, wait_ns % 1000000000};

		ppoll(ends, (nfds_t)relay->count, &wait, NULL);
	}
	return NULL;
}

void relay_start(struct relay *relay)
{
	struct sched_param urgent = {.sched_priority = RELAY_PRIORITY};

	for (int forward = 0; forward < 2; forward++) {
		pthread_t thread;

		relay->sides[forward] = (struct side){.relay = relay, .forward = forward};
		if (pthread_create(&thread, NULL, run_side, &relay->sides[forward]) != 0) {
			perror("pthread_create");
			exit(1);
		}
		pthread_setschedparam(thread, SCHED_RR, &urgent);
		pthread_detach(thread);
	}
}
