/* Carries packets between pairs of TUN devices with a rate, a delay and independent random loss.
 *
 * A hop has two ends, each the file descriptor of a TUN device. What one end's kernel sends is read
 * here, spaced to the hop's rate by a virtual clock (which only smooths: the kernel's `tbf` before
 * it holds rate and queue), delayed, and written to the other end. Loss concerns the forward
 * direction alone, is drawn per packet from a seeded generator, and happens after the rate.
 * A thread carries all hops of a route one way, and another the other way: what a packet sets off in
 * the kernel that gets it, up to the packets that this sends in return, is the writing thread's work.
 */
#ifndef FIDELITY_RELAY_H
#define FIDELITY_RELAY_H

#include <stdatomic.h>
#include <stdint.h>

#define RELAY_PRIORITY 10
#define MAXIMUM_HOPS 8
#define MAXIMUM_PACKET 1600
#define FRAME_BYTES 14 /* of Ethernet, which a TUN device does not carry but a link would */

struct slot {
	int64_t due_ns;
	uint32_t length;
	uint8_t data[MAXIMUM_PACKET];
};

struct lane { /* one direction of a hop */
	int from, to;
	double ns_per_byte;
	int64_t delay_ns, departed_ns;
	uint64_t head, tail, mask;
	struct slot *slots;
};

struct hop {
	double bandwidth_bps, loss;
	int64_t delay_ns, queue_bytes, burst_bytes;
	struct lane forward, back;
	uint64_t random;
};

struct side { /* the work of one thread */
	struct relay *relay;
	int forward;
};

struct relay {
	struct hop *hops;
	int count;
	struct side sides[2];
	int64_t spin_ns; /* shorter waits are not slept: a wake-up is late by some tens of µs */
	atomic_int lossy, stop;
	atomic_llong lost, overflown, carried, late_ns;
};

int64_t now_ns(void);
void relay_prepare(struct relay *relay);
void relay_seed(struct relay *relay, uint64_t seed);
int64_t relay_waiting(const struct relay *relay);
void relay_start(struct relay *relay);

#endif
