/* CUBIC for ns-3 as Linux has it: RFC 9438 with its Reno-friendly region, fast convergence, and
 * HyStart (Ha and Rhee 2008) with Linux's constants; slow start counts segments, not ACKs.
 */
#ifndef FIDELITY_CUBIC_H
#define FIDELITY_CUBIC_H

#include <ns3/tcp-congestion-ops.h>

namespace fidelity {

class Cubic : public ns3::TcpCongestionOps {
  public:
	static ns3::TypeId GetTypeId();
	std::string GetName() const override { return "Cubic"; }
	void PktsAcked(ns3::Ptr<ns3::TcpSocketState> tcb, uint32_t segments,
		       const ns3::Time &rtt) override;
	void IncreaseWindow(ns3::Ptr<ns3::TcpSocketState> tcb, uint32_t segments) override;
	uint32_t GetSsThresh(ns3::Ptr<const ns3::TcpSocketState> tcb, uint32_t inFlight) override;
	void CongestionStateSet(ns3::Ptr<ns3::TcpSocketState> tcb,
				const ns3::TcpSocketState::TcpCongState_t state) override;
	ns3::Ptr<ns3::TcpCongestionOps> Fork() override;

  private:
	void Avoid(ns3::Ptr<ns3::TcpSocketState> tcb, uint32_t segments);
	void WatchSlowStart(ns3::Ptr<ns3::TcpSocketState> tcb, double rtt_s);

	/* of congestion avoidance, in segments and seconds */
	double m_lastMax = 0, m_origin = 0, m_k = 0, m_epoch = -1, m_reno = 0, m_fraction = 0;
	double m_minRtt = 0;
	/* of HyStart */
	bool m_found = false;
	double m_roundStart = 0, m_lastAck = 0, m_roundRtt = 0, m_sample = 0;
	uint32_t m_samples = 0;
	ns3::SequenceNumber32 m_roundEnd{0};
};

} // namespace fidelity

#endif
