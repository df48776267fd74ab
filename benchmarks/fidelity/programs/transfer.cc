/* The transfers of one cell in ns-3 3.37.
 *
 *   transfer --hop BITS_PER_S,DELAY_NS,QUEUE_BYTES,LOSS [--hop …] --size BYTES [--flows N]
 *            [--cross BITS_PER_S] [--law cubic|reno|plain-cubic] [--seed FIRST] [--runs N]
 *            [--settings]
 *
 * A line of JSON for each run goes to standard output. Point-to-point links with a drop-tail queue
 * in bytes and no queueing discipline on top. A link's header here has 2 bytes instead of
 * Ethernet's 14, so its rate is scaled by 1502 ÷ 1514 and a full segment takes as long as it should.
 *
 * What is set so that it is as in Linux: initial window 10, segments of 1448, SACK and time stamps,
 * an ACK for two segments or after 40 ms but for each of the first 16, RTO = SRTT + max(4 · RTTVAR, 200 ms), PRR, buffers that
 * limit nothing. `cubic` is RFC 9438 with HyStart, as Linux has it (see cubic.h): ns-3 3.37's own
 * lacks the Reno-friendly region and counts ACKs instead of segments in slow start. `plain-cubic`
 * is ns-3's own.
 */
#include <ns3/core-module.h>
#include <ns3/internet-module.h>
#include <ns3/network-module.h>
#include <ns3/point-to-point-module.h>

#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "cubic.h"

using namespace ns3;

namespace {

constexpr double OWN_FRAME = 1502, ETHERNET_FRAME = 1514;
constexpr double START_S = 5.0, LONGEST_S = 400.0;
constexpr long long QUICK_ACKS = 16; /* TCP_MAX_QUICKACKS */
constexpr uint16_t PORT = 5001, CROSS_PORT = 5002;
constexpr uint32_t CROSS_PAYLOAD = 1472, CROSS_FRAME = 1514;

struct Hop {
	double bandwidthBps, loss;
	long long delayNs, queueBytes;
};

struct Plan {
	std::vector<Hop> hops;
	long long sizeBytes = 0;
	int flows = 1, runs = 1;
	double crossBps = 0;
	std::string law = "cubic";
	unsigned long seed = 1;
	bool settings = false;
};

/* One transfer: writes all at its start, notes when the last byte is received. */
struct Flow {
	Ptr<Socket> sender;
	long long size = 0, unsent = 0, received = 0;
	Time sent, arrived;

	void Start()
	{
		sent = Simulator::Now();
		unsent = size;
		Write();
	}

	void Write()
	{
		while (unsent > 0) {
			auto room = std::min<long long>(unsent, sender->GetTxAvailable());

			room = std::min<long long>(room, 1 << 20);
			if (room <= 0)
				return;
			int done = sender->Send(Create<Packet>(static_cast<uint32_t>(room)));
			if (done <= 0)
				return;
			unsent -= done;
		}
	}

	void Read(Ptr<Socket> socket)
	{
		while (Ptr<Packet> packet = socket->Recv()) {
			if (packet->GetSize() == 0)
				return;
			received += packet->GetSize();
		}
		if (received > QUICK_ACKS * 1448) /* for what comes after this one */
			socket->SetAttribute("DelAckCount", UintegerValue(2));
		if (received >= size && arrived.IsZero())
			arrived = Simulator::Now();
	}
};

struct Run {
	const Plan &plan;
	std::vector<std::unique_ptr<Flow>> flows;
	std::vector<Ptr<RateErrorModel>> losses;
	Ptr<Socket> cross;
	int accepted = 0, open;
	long long lost = 0;

	explicit Run(const Plan &plan) : plan(plan), open(plan.flows) {}

	void Accepted(Ptr<Socket> socket, const Address &)
	{
		Flow *flow = flows[accepted++].get();

		socket->SetAttribute("DelAckCount", UintegerValue(1));
		socket->SetRecvCallback(Callback<void, Ptr<Socket>>([this, flow](Ptr<Socket> from) {
			bool before = flow->arrived.IsZero();

			flow->Read(from);
			if (before && !flow->arrived.IsZero() && --open == 0)
				Simulator::Stop();
		}));
	}

	void Cross()
	{
		cross->Send(Create<Packet>(CROSS_PAYLOAD));
		Simulator::Schedule(Seconds(CROSS_FRAME * 8 / plan.crossBps), &Run::Cross, this);
	}

	void Lose()
	{
		for (auto &loss : losses)
			loss->Enable();
	}
};

void Configure(const Plan &plan)
{
	auto set = [](const std::string &name, const AttributeValue &value) {
		Config::SetDefault("ns3::" + name, value);
	};

	set("TcpSocket::SegmentSize", UintegerValue(1448));
	set("TcpSocket::InitialCwnd", UintegerValue(10));
	set("TcpSocket::DelAckCount", UintegerValue(2));
	set("TcpSocket::DelAckTimeout", TimeValue(MilliSeconds(40)));
	set("TcpSocket::SndBufSize", UintegerValue(1 << 28));
	set("TcpSocket::RcvBufSize", UintegerValue(1 << 28));
	set("TcpSocket::TcpNoDelay", BooleanValue(true));
	set("TcpSocketBase::MinRto", TimeValue(MilliSeconds(200)));
	set("TcpSocketBase::ClockGranularity", TimeValue(MilliSeconds(200)));
	set("TcpSocketBase::Sack", BooleanValue(true));
	set("TcpSocketBase::Timestamp", BooleanValue(true));
	set("TcpSocketBase::WindowScaling", BooleanValue(true));
	set("TcpL4Protocol::RecoveryType", TypeIdValue(TypeId::LookupByName("ns3::TcpPrrRecovery")));
	std::string law = plan.law == "reno" ? "ns3::TcpLinuxReno"
			  : plan.law == "cubic" ? "fidelity::Cubic"
						: "ns3::TcpCubic";
	set("TcpL4Protocol::SocketType", TypeIdValue(TypeId::LookupByName(law)));
	set("TcpCubic::HyStartDelayMax", TimeValue(MilliSeconds(16)));
}

NetDeviceContainer Connect(Ptr<Node> a, Ptr<Node> b, double rateBps, long long delayNs,
			   long long queueBytes)
{
	PointToPointHelper link;

	link.SetDeviceAttribute("DataRate", DataRateValue(DataRate(static_cast<uint64_t>(rateBps))));
	link.SetChannelAttribute("Delay", TimeValue(NanoSeconds(delayNs)));
	link.SetQueue("ns3::DropTailQueue<Packet>", "MaxSize",
		      QueueSizeValue(QueueSize(QueueSizeUnit::BYTES, static_cast<uint32_t>(queueBytes))));
	return link.Install(a, b);
}

void Address2(const NetDeviceContainer &devices, int number)
{
	for (uint32_t end = 0; end < 2; end++) {
		Ptr<NetDevice> device = devices.Get(end);
		Ptr<Ipv4> ip = device->GetNode()->GetObject<Ipv4>();
		int32_t interface = ip->AddInterface(device); /* and so without a queueing discipline */
		std::string text = "10." + std::to_string(number) + ".0." + std::to_string(end + 1);

		ip->AddAddress(interface, Ipv4InterfaceAddress(text.c_str(), "255.255.255.0"));
		ip->SetUp(interface);
	}
}

void Once(const Plan &plan, unsigned long seed)
{
	Run run(plan);
	NodeContainer nodes;
	InternetStackHelper internet;
	int last = static_cast<int>(plan.hops.size());
	double slowestBps = plan.hops[0].bandwidthBps;

	RngSeedManager::SetSeed(2026);
	RngSeedManager::SetRun(seed);
	nodes.Create(last + 2); /* sender, a router before each hop, receiver */
	internet.Install(nodes);
	Address2(Connect(nodes.Get(0), nodes.Get(1), 1e12, 0, 1 << 30), 0);
	for (int i = 0; i < last; i++) {
		const Hop &hop = plan.hops[i];
		NetDeviceContainer devices = Connect(nodes.Get(i + 1), nodes.Get(i + 2),
						     hop.bandwidthBps * OWN_FRAME / ETHERNET_FRAME,
						     hop.delayNs, hop.queueBytes);

		slowestBps = std::min(slowestBps, hop.bandwidthBps);
		if (hop.loss > 0) {
			auto loss = CreateObject<RateErrorModel>();

			loss->SetUnit(RateErrorModel::ERROR_UNIT_PACKET);
			loss->SetRate(hop.loss);
			loss->AssignStreams(100 + i);
			loss->Disable();
			devices.Get(1)->SetAttribute("ReceiveErrorModel", PointerValue(loss));
			run.losses.push_back(loss);
		}
		Address2(devices, i + 1);
	}
	Ipv4GlobalRoutingHelper::PopulateRoutingTables();
	Ptr<Node> source = nodes.Get(0), target = nodes.Get(last + 1);
	Ipv4Address there = target->GetObject<Ipv4>()->GetAddress(1, 0).GetLocal();
	auto random = CreateObject<UniformRandomVariable>();

	random->SetStream(7);
	for (int i = 0; i < plan.flows; i++) {
		run.flows.push_back(std::make_unique<Flow>());
		run.flows[i]->size = plan.sizeBytes;
	}
	Ptr<Socket> listening = Socket::CreateSocket(target, TcpSocketFactory::GetTypeId());
	listening->Bind(InetSocketAddress(Ipv4Address::GetAny(), PORT));
	listening->Listen();
	listening->SetAcceptCallback(MakeNullCallback<bool, Ptr<Socket>, const Address &>(),
				     MakeCallback(&Run::Accepted, &run));
	for (int i = 0; i < plan.flows; i++) {
		Flow *flow = run.flows[i].get();

		flow->sender = Socket::CreateSocket(source, TcpSocketFactory::GetTypeId());
		flow->sender->Bind();
		Simulator::Schedule(Seconds(0.3 * i), [flow, there]() { /* accepted in this order */
			flow->sender->Connect(InetSocketAddress(there, PORT));
			flow->sender->SetSendCallback(Callback<void, Ptr<Socket>, uint32_t>(
			    [flow](Ptr<Socket>, uint32_t) { flow->Write(); }));
		});
		/* within a packet's time of each other, for no two hosts act at one instant */
		double apart_s = plan.flows > 1 ? random->GetValue(0, ETHERNET_FRAME * 8 / slowestBps) : 0;
		Simulator::Schedule(Seconds(START_S + apart_s), &Flow::Start, flow);
	}
	if (plan.crossBps > 0) {
		Ptr<Socket> sink = Socket::CreateSocket(target, UdpSocketFactory::GetTypeId());

		sink->Bind(InetSocketAddress(Ipv4Address::GetAny(), CROSS_PORT));
		sink->ShutdownRecv();
		run.cross = Socket::CreateSocket(source, UdpSocketFactory::GetTypeId());
		run.cross->Connect(InetSocketAddress(there, CROSS_PORT));
		double phase_s = random->GetValue(0, CROSS_FRAME * 8 / plan.crossBps);
		Simulator::Schedule(Seconds(START_S - 1 + phase_s), &Run::Cross, &run);
	}
	Simulator::Schedule(Seconds(START_S - 0.001), &Run::Lose, &run);
	Simulator::Stop(Seconds(START_S + LONGEST_S));
	Simulator::Run();
	std::printf("{\"seed\": %lu, \"seconds\": [", seed);
	for (int i = 0; i < plan.flows; i++) {
		Flow *flow = run.flows[i].get();

		std::printf("%s%.9f", i ? ", " : "",
			    flow->arrived.IsZero() ? -1.0 : (flow->arrived - flow->sent).GetSeconds());
	}
	std::printf("]}\n");
	std::fflush(stdout);
	Simulator::Destroy();
}

void PrintSettings(const Plan &plan)
{
	static const char *const shown[][2] = {
	    {"TcpSocket", "SegmentSize"},   {"TcpSocket", "InitialCwnd"}, {"TcpSocket", "DelAckCount"},
	    {"TcpSocket", "DelAckTimeout"}, {"TcpSocket", "SndBufSize"},  {"TcpSocket", "RcvBufSize"},
	    {"TcpSocketBase", "MinRto"},    {"TcpSocketBase", "ClockGranularity"},
	    {"TcpSocketBase", "Sack"},	    {"TcpSocketBase", "Timestamp"},
	    {"TcpSocketBase", "LimitedTransmit"}, {"TcpL4Protocol", "SocketType"},
	    {"TcpL4Protocol", "RecoveryType"},
	};
	Configure(plan);
	std::printf("{");
	for (size_t i = 0; i < sizeof shown / sizeof *shown; i++) {
		TypeId type = TypeId::LookupByName(std::string("ns3::") + shown[i][0]);
		TypeId::AttributeInformation about;

		if (!type.LookupAttributeByName(shown[i][1], &about))
			continue;
		std::printf("%s\"%s\": \"%s\"", i ? ", " : "", shown[i][1],
			    about.initialValue->SerializeToString(about.checker).c_str());
	}
	std::printf("}\n");
}

Hop ReadHop(const char *text)
{
	Hop hop{};

	if (std::sscanf(text, "%lf,%lld,%lld,%lf", &hop.bandwidthBps, &hop.delayNs, &hop.queueBytes,
			&hop.loss) != 4) {
		std::fprintf(stderr, "--hop is BITS_PER_S,DELAY_NS,QUEUE_BYTES,LOSS\n");
		std::exit(2);
	}
	return hop;
}

} // namespace

int main(int argc, char **argv)
{
	Plan plan;

	for (int i = 1; i < argc; i++) {
		std::string name = argv[i];
		const char *value = i + 1 < argc ? argv[i + 1] : "";

		if (name == "--settings") {
			plan.settings = true;
			continue;
		}
		i++;
		if (name == "--hop")
			plan.hops.push_back(ReadHop(value));
		else if (name == "--size")
			plan.sizeBytes = std::atoll(value);
		else if (name == "--flows")
			plan.flows = std::atoi(value);
		else if (name == "--cross")
			plan.crossBps = std::atof(value);
		else if (name == "--law")
			plan.law = value;
		else if (name == "--seed")
			plan.seed = std::strtoul(value, nullptr, 10);
		else if (name == "--runs")
			plan.runs = std::atoi(value);
		else {
			std::fprintf(stderr, "unknown argument %s\n", name.c_str());
			return 2;
		}
	}
	if (plan.hops.empty() || plan.flows < 1) {
		std::fprintf(stderr, "at least one --hop and one flow\n");
		return 2;
	}
	Configure(plan);
	if (plan.settings)
		PrintSettings(plan);
	for (int i = 0; i < plan.runs; i++)
		Once(plan, plan.seed + static_cast<unsigned long>(i));
	return 0;
}
