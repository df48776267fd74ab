/* The kernel's own TCP over a route made of network namespaces: builds it, measures, is gone.
 *
 *   rig --hop BITS_PER_S,DELAY_NS,QUEUE_BYTES,LOSS [--hop …] --size BYTES [--flows N]
 *       [--cross BITS_PER_S] [--law cubic|reno] [--seed FIRST] [--runs N] [--exact]
 *       [--deadline SECONDS] [--probe] [--settings]
 *
 * A line of JSON for each run goes to standard output. Namespaces have no names, TUN devices are
 * not persistent and all of it is one process, so nothing remains when that process ends, however
 * it ends: it dies with its parent, and by itself after the deadline.
 *
 *   sender ──veth── router 0 ══tbf·TUN · relay · TUN══ router 1 ══ … ══ receiver
 *
 * The sender stands behind a router so that its kernel does not see the bottleneck's queue (TCP
 * small queues would keep it short). `tbf` holds rate and queue; the relay holds the delay, the
 * loss, and the spacing of packets inside tbf's burst, so that the queue is QUEUE_BYTES in all.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "relay.h"
#include "traffic.h"

#define FRAME 1514
#define SMALLEST_BURST (6 * FRAME)
#define BURST_S 0.002

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static int new_namespace(void)
{
	int made;

	if (unshare(CLONE_NEWNET) < 0)
		fail("unshare (this needs root)");
	made = open("/proc/thread-self/ns/net", O_RDONLY); /* inherited by ip, on purpose */
	if (made < 0)
		fail("/proc/thread-self/ns/net");
	return made;
}

static int new_tun(const char *name)
{
	struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
	int made = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);

	if (made < 0)
		fail("/dev/net/tun");
	snprintf(request.ifr_name, IFNAMSIZ, "%s", name);
	if (ioctl(made, TUNSETIFF, &request) < 0)
		fail("TUNSETIFF");
	return made;
}

static void run(const char *command, const char *script)
{
	FILE *pipe = popen(command, "w");

	if (!pipe || fputs(script, pipe) < 0 || pclose(pipe) != 0) {
		fprintf(stderr, "%s refused:\n%s", command, script);
		exit(1);
	}
}

static void write_setting(const char *name, const char *value)
{
	char path[128];
	FILE *file;

	snprintf(path, sizeof path, "/proc/sys/net/%s", name);
	file = fopen(path, "w");
	if (!file) {
		if (strncmp(name, "ipv6", 4) != 0)
			fail(path);
		return; /* a kernel without IPv6 */
	}
	if (fputs(value, file) < 0 || fclose(file) != 0)
		fail(path);
}

static const char *const SETTINGS[][2] = {
	{"ipv4/tcp_no_metrics_save", "1"},
	{"ipv4/tcp_slow_start_after_idle", "0"},
	{"ipv4/tcp_timestamps", "1"},
	{"ipv4/tcp_sack", "1"},
	{"ipv4/tcp_dsack", "1"},
	{"ipv4/tcp_ecn", "0"},
	{"ipv4/tcp_recovery", "1"},
	{"ipv4/tcp_early_retrans", "3"},
	{"ipv4/tcp_moderate_rcvbuf", "1"},
	{"ipv4/tcp_rmem", "4096 33554432 67108864"},
	{"ipv4/tcp_wmem", "4096 33554432 67108864"},
	{"ipv4/conf/all/rp_filter", "0"},
	{"ipv4/ip_forward", "1"},
	{"ipv6/conf/all/disable_ipv6", "1"},
	{"ipv6/conf/default/disable_ipv6", "1"},
};

static void configure(void)
{
	for (size_t i = 0; i < sizeof SETTINGS / sizeof *SETTINGS; i++)
		write_setting(SETTINGS[i][0], SETTINGS[i][1]);
}

static void print_file(const char *name, const char *path, const char *separator)
{
	char text[256] = "";
	FILE *file = fopen(path, "r");

	if (!file)
		return;
	if (!fgets(text, sizeof text, file))
		text[0] = 0;
	fclose(file);
	for (char *c = text; *c; c++)
		if (*c == '\n' || *c == '\t')
			*c = *c == '\n' ? 0 : ' ';
	printf("%s\"%s\": \"%s\"", separator, name, text);
}

static void print_settings(void)
{
	static const char *const cubic[] = {"beta", "hystart", "hystart_ack_delta_us", "hystart_detect",
					    "hystart_low_window", "tcp_friendliness", "fast_convergence"};
	char path[160];

	printf("{");
	print_file("kernel", "/proc/sys/kernel/osrelease", "");
	for (size_t i = 0; i < sizeof SETTINGS / sizeof *SETTINGS; i++) {
		if (strncmp(SETTINGS[i][0], "ipv4/tcp", 8) != 0)
			continue;
		snprintf(path, sizeof path, "/proc/sys/net/%s", SETTINGS[i][0]);
		print_file(SETTINGS[i][0] + 5, path, ", ");
	}
	print_file("tcp_reordering", "/proc/sys/net/ipv4/tcp_reordering", ", ");
	print_file("tcp_frto", "/proc/sys/net/ipv4/tcp_frto", ", ");
	for (size_t i = 0; i < sizeof cubic / sizeof *cubic; i++) {
		char name[64];

		snprintf(path, sizeof path, "/sys/module/tcp_cubic/parameters/%s", cubic[i]);
		snprintf(name, sizeof name, "cubic_%s", cubic[i]);
		print_file(name, path, ", ");
	}
	printf("}\n");
}

/* Packets as long as the MTU on the wire, as a network card would send them. */
static void segment_before(const char *device)
{
	static const uint32_t off[] = {ETHTOOL_STSO};
	int any = socket(AF_INET, SOCK_DGRAM, 0);

	for (size_t i = 0; i < sizeof off / sizeof *off; i++) {
		struct ethtool_value value = {.cmd = off[i], .data = 0};
		struct ifreq request = {.ifr_data = (void *)&value};

		snprintf(request.ifr_name, IFNAMSIZ, "%s", device);
		if (ioctl(any, SIOCETHTOOL, &request) < 0)
			fail("SIOCETHTOOL");
	}
	close(any);
}

static void build_sender(struct plan *plan)
{
	int router;
	char script[512];

	router = new_namespace();
	configure();
	plan->sender_namespace = new_namespace();
	configure();
	snprintf(script, sizeof script,
		 "link set lo up\n"
		 "link add near type veth peer name far netns /proc/%d/fd/%d\n"
		 "address add 10.0.0.1/24 dev near\nlink set near up\n",
		 getpid(), router);
	run("ip -batch -", script);
	segment_before("near");
	enter(router);
	run("ip -batch -", "link set lo up\naddress add 10.0.0.2/24 dev far\nlink set far up\n");
	enter(plan->sender_namespace);
	run("ip -batch -", "route add default via 10.0.0.2\n");
	enter(router);
}

/* From the namespace we are in, one hop on; leaves us in the namespace behind it. */
static void build_hop(struct hop *hop, int number)
{
	char script[512];
	int64_t limit = hop->queue_bytes + FRAME - hop->burst_bytes;

	hop->forward.from = hop->back.to = new_tun("out");
	snprintf(script, sizeof script,
		 "address add 10.%d.0.1 peer 10.%d.0.2 dev out\nlink set out txqueuelen 20000 up\n"
		 "route add default dev out\n",
		 number + 1, number + 1);
	run("ip -batch -", script);
	snprintf(script, sizeof script,
		 "qdisc add dev out root stab overhead %d linklayer ethernet tbf rate %.0fbit burst %lld limit %lld\n",
		 FRAME_BYTES, hop->bandwidth_bps, (long long)hop->burst_bytes, (long long)limit);
	run("tc -batch -", script);
	new_namespace();
	configure();
	hop->forward.to = hop->back.from = new_tun("in");
	snprintf(script, sizeof script,
		 "link set lo up\naddress add 10.%d.0.2 peer 10.%d.0.1 dev in\n"
		 "link set in txqueuelen 20000 up\nroute add 10.0.0.0/24 dev in\n",
		 number + 1, number + 1);
	run("ip -batch -", script);
}

/* Keeps a core awake at the lowest priority: a virtual machine's sleeping core wakes late. */
static void *stay_awake(void *unused)
{
	(void)unused;
	for (volatile long i = 0;; i++)
		;
	return NULL;
}

static void pin(pthread_t thread, int core)
{
	cpu_set_t cores;

	CPU_ZERO(&cores);
	CPU_SET(core, &cores);
	pthread_setaffinity_np(thread, sizeof cores, &cores);
}

static void keep_cores_awake(void)
{
	struct sched_param least = {.sched_priority = 0};

	for (int core = 0; core < sysconf(_SC_NPROCESSORS_ONLN); core++) {
		pthread_t awake;

		if (pthread_create(&awake, NULL, stay_awake, NULL) != 0)
			fail("pthread_create");
		pthread_setschedparam(awake, SCHED_IDLE, &least);
		pin(awake, core);
	}
}

static void read_hop(const char *text, struct hop *hop)
{
	long long delay_ns, queue_bytes;
	double burst;

	memset(hop, 0, sizeof *hop);
	if (sscanf(text, "%lf,%lld,%lld,%lf", &hop->bandwidth_bps, &delay_ns, &queue_bytes,
		   &hop->loss) != 4) {
		fprintf(stderr, "--hop is BITS_PER_S,DELAY_NS,QUEUE_BYTES,LOSS\n");
		exit(2);
	}
	hop->delay_ns = delay_ns;
	hop->queue_bytes = queue_bytes;
	burst = hop->bandwidth_bps / 8 * BURST_S;
	hop->burst_bytes = burst > SMALLEST_BURST ? (int64_t)burst : SMALLEST_BURST;
	if (hop->burst_bytes > queue_bytes / 2)
		hop->burst_bytes = queue_bytes / 2 > FRAME ? queue_bytes / 2 : FRAME;
}

int main(int argc, char **argv)
{
	static struct hop hops[MAXIMUM_HOPS];
	struct relay relay = {.hops = hops};
	struct plan plan = {.flows = 1, .law = "cubic"};
	struct sched_param urgent = {.sched_priority = RELAY_PRIORITY - 1};
	uint64_t seed = 1;
	double ideal_s = 0;
	int runs = 1, deadline_s = 60, probing = 0, telling = 0, listening;

	for (int i = 1; i < argc; i++) {
		const char *value = i + 1 < argc ? argv[i + 1] : "";

		if (!strcmp(argv[i], "--hop") && relay.count < MAXIMUM_HOPS)
			read_hop(value, &hops[relay.count++]), i++;
		else if (!strcmp(argv[i], "--size"))
			plan.size_bytes = atoll(value), i++;
		else if (!strcmp(argv[i], "--flows"))
			plan.flows = atoi(value), i++;
		else if (!strcmp(argv[i], "--cross"))
			plan.cross_bps = atof(value), i++;
		else if (!strcmp(argv[i], "--law"))
			plan.law = value, i++;
		else if (!strcmp(argv[i], "--seed"))
			seed = strtoull(value, NULL, 10), i++;
		else if (!strcmp(argv[i], "--runs"))
			runs = atoi(value), i++;
		else if (!strcmp(argv[i], "--deadline"))
			deadline_s = atoi(value), i++;
		else if (!strcmp(argv[i], "--exact"))
			plan.exact = 1;
		else if (!strcmp(argv[i], "--probe"))
			probing = 1;
		else if (!strcmp(argv[i], "--settings"))
			telling = 1;
		else {
			fprintf(stderr, "unknown argument %s\n", argv[i]);
			return 2;
		}
	}
	if (!relay.count || plan.flows < 1 || plan.flows > MAXIMUM_FLOWS || deadline_s < 1) {
		fprintf(stderr, "at least one --hop, 1 to %d flows, a deadline\n", MAXIMUM_FLOWS);
		return 2;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
	alarm((unsigned)deadline_s);
	build_sender(&plan);
	for (int i = 0; i < relay.count; i++) {
		build_hop(&hops[i], i);
		double serial_s = (double)plan.size_bytes * plan.flows * 8 / hops[i].bandwidth_bps;

		ideal_s = serial_s > ideal_s ? serial_s : ideal_s;
		plan.route_delay_ns += hops[i].delay_ns;
		plan.drain_ns += 2 * hops[i].delay_ns +
				 (int64_t)((double)hops[i].queue_bytes * 8e9 / hops[i].bandwidth_bps);
	}
	plan.receiver_namespace = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	/* a real-time thread that spins for a second is throttled, so long transfers sleep more */
	relay.spin_ns = !plan.exact ? 5000 : ideal_s < 0.5 ? 300000 : 50000;
	snprintf(plan.target, sizeof plan.target, "10.%d.0.2", relay.count);
	if (telling)
		print_settings();
	relay_prepare(&relay);
	relay_start(&relay);
	if (plan.exact) {
		keep_cores_awake();
		pthread_setschedparam(pthread_self(), SCHED_RR, &urgent); /* and what it starts */
	}
	listening = listen_for_flows(&plan);
	if (plan.size_bytes > 0 || probing)
		probe(&plan, &relay, probing);
	start_cross_traffic(&plan);
	for (int i = 0; i < runs && plan.size_bytes > 0; i++)
		transfer(&plan, &relay, listening, seed + (uint64_t)i);
	fflush(stdout);
	_exit(0); /* threads, sockets, devices and namespaces go with the process */
}
