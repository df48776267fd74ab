/* See cubic.h for what is promised. The constants are those of RFC 9438 and of net/ipv4/tcp_cubic.c. */
#include "cubic.h"

#include <ns3/simulator.h>

#include <algorithm>
#include <cmath>

using namespace ns3;

namespace fidelity {

namespace {
constexpr double C = 0.4, BETA = 717.0 / 1024;
constexpr double RENO = 3 * (1 - BETA) / (1 + BETA); /* segments a round trip that are fair to Reno */
constexpr double LOW_WINDOW = 16, ACK_DELTA_S = 0.002, LEAST_DELAY_S = 0.004, MOST_DELAY_S = 0.016;
constexpr double MOST_ACK_DELAY_S = 0.001, LARGEST_BURST_BYTES = 4 * 65536;
constexpr uint32_t SAMPLES = 8;

double Now()
{
	return Simulator::Now().GetSeconds();
}
} // namespace

NS_OBJECT_ENSURE_REGISTERED(Cubic);

TypeId Cubic::GetTypeId()
{
	static TypeId id = TypeId("fidelity::Cubic")
			       .SetParent<TcpCongestionOps>()
			       .AddConstructor<Cubic>()
			       .SetGroupName("Internet");
	return id;
}

Ptr<TcpCongestionOps> Cubic::Fork()
{
	return CopyObject<Cubic>(this);
}

void Cubic::PktsAcked(Ptr<TcpSocketState>, uint32_t, const Time &rtt)
{
	double rtt_s = rtt.GetSeconds();

	if (rtt_s <= 0 || (m_epoch >= 0 && Now() - m_epoch < 1.0))
		return; /* as Linux: no samples in the first second after a loss */
	if (m_minRtt == 0 || rtt_s < m_minRtt)
		m_minRtt = rtt_s;
	m_sample = rtt_s;
}

/* HyStart: slow start ends when ACKs come in one train as long as half the round trip (and what
 * segmentation may hold ACKs back, by tcp_cubic.c's hystart_ack_delay), or when round trips have
 * become longer by an eighth.
 */
void Cubic::WatchSlowStart(Ptr<TcpSocketState> tcb, double rtt_s)
{
	double now = Now();

	if (now - m_lastAck <= ACK_DELTA_S) {
		m_lastAck = now;
		double pacing = 2.0 * tcb->m_cWnd / rtt_s;
		double held_s = std::min(MOST_ACK_DELAY_S, LARGEST_BURST_BYTES / pacing);

		if (now - m_roundStart > (m_minRtt + held_s) / 2)
			m_found = true;
	}
	if (m_samples == 0 || rtt_s < m_roundRtt)
		m_roundRtt = rtt_s;
	if (m_samples < SAMPLES)
		m_samples++;
	else if (m_roundRtt > m_minRtt + std::clamp(m_minRtt / 8, LEAST_DELAY_S, MOST_DELAY_S))
		m_found = true;
	if (m_found)
		tcb->m_ssThresh = tcb->m_cWnd;
}

void Cubic::IncreaseWindow(Ptr<TcpSocketState> tcb, uint32_t segments)
{
	if (tcb->m_cWnd < tcb->m_ssThresh) {
		if (tcb->m_lastAckedSeq > m_roundEnd) {
			m_roundEnd = tcb->m_highTxMark;
			m_roundStart = m_lastAck = Now();
			m_samples = 0;
		}
		if (!m_found && m_sample > 0 && tcb->GetCwndInSegments() >= LOW_WINDOW)
			WatchSlowStart(tcb, m_sample);
		m_sample = 0;
	}
	if (tcb->m_cWnd < tcb->m_ssThresh) {
		uint32_t room = (tcb->m_ssThresh - tcb->m_cWnd + tcb->m_segmentSize - 1) / tcb->m_segmentSize;
		uint32_t taken = std::min(segments, room);

		tcb->m_cWnd += taken * tcb->m_segmentSize;
		segments -= taken;
	}
	if (segments > 0)
		Avoid(tcb, segments);
}

void Cubic::Avoid(Ptr<TcpSocketState> tcb, uint32_t segments)
{
	double window = static_cast<double>(tcb->m_cWnd) / tcb->m_segmentSize, now = Now();

	if (m_epoch < 0) {
		m_epoch = now;
		m_reno = window;
		m_k = m_lastMax > window ? std::cbrt((m_lastMax - window) / C) : 0;
		m_origin = std::max(m_lastMax, window);
	}
	double t = now - m_epoch + m_minRtt - m_k;
	double target = std::min(m_origin + C * t * t * t, window * 1.5);
	double step = target > window ? (target - window) / window : 0.01 / window;

	if (m_lastMax == 0)
		step = std::max(step, 1.0 / 20);
	m_reno += RENO * segments / window;
	if (m_reno > window)
		step = std::max(step, (m_reno - window) / window);
	m_fraction += std::min(step, 0.5) * segments;
	uint32_t whole = static_cast<uint32_t>(m_fraction);

	m_fraction -= whole;
	tcb->m_cWnd += whole * tcb->m_segmentSize;
}

uint32_t Cubic::GetSsThresh(Ptr<const TcpSocketState> tcb, uint32_t)
{
	double window = tcb->GetCwndInSegments();

	m_lastMax = window < m_lastMax ? window * (1 + BETA) / 2 : window;
	m_epoch = -1;
	m_fraction = 0;
	return std::max(static_cast<uint32_t>(window * BETA), 2U) * tcb->m_segmentSize;
}

void Cubic::CongestionStateSet(Ptr<TcpSocketState> tcb,
			       const TcpSocketState::TcpCongState_t state)
{
	if (state != TcpSocketState::CA_LOSS)
		return;
	m_lastMax = m_origin = m_k = m_reno = m_fraction = m_minRtt = 0;
	m_epoch = -1;
	m_found = false;
	m_roundEnd = tcb->m_highTxMark;
	m_roundStart = m_lastAck = Now();
	m_samples = 0;
}

} // namespace fidelity
