//! Congestion control: the interface, and NewReno (RFC 5681, initial window by RFC 6928).
//!
//! Recovery decides *when* something was lost and what is sent again; a [`Control`] decides how much may be under way.

/// How much may be under way. All quantities are payload bytes.
pub(crate) trait Control {
    /// The congestion window.
    fn window(&self) -> u32;
    /// New data was acknowledged while the window was the limit, outside of recovery.
    fn acknowledged(&mut self, bytes: u32, mss: u32);
    /// Loss was detected by duplicates or SACK while `flight` bytes were under way (once per window).
    fn lost(&mut self, flight: u32, mss: u32);
    /// The retransmission timer ran out; `first`: for this data for the first time.
    fn timed_out(&mut self, flight: u32, mss: u32, first: bool);
    /// Nothing was sent for longer than a retransmission timeout.
    fn idled(&mut self, mss: u32);
}

/// Upper bound of the window: far above every buffer, far below overflow.
const WINDOW_MAX: u32 = 1 << 30;

/// Segments by which one ACK may open the window in slow start.
const STRETCH: u32 = 8;

/// NewReno.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewReno {
    cwnd: u32,
    ssthresh: u32,
    /// Bytes acknowledged since the window last grew in congestion avoidance.
    counted: u32,
}

impl NewReno {
    /// At the start of a connection.
    pub(crate) fn new(mss: u32) -> Self {
        NewReno { cwnd: Self::initial(mss), ssthresh: u32::MAX, counted: 0 }
    }

    /// IW10 (RFC 6928, section 2).
    fn initial(mss: u32) -> u32 {
        (10 * mss).min(14_600.max(2 * mss))
    }

    /// Equation 4 of RFC 5681.
    fn half(flight: u32, mss: u32) -> u32 {
        (flight / 2).max(2 * mss)
    }
}

impl Control for NewReno {
    fn window(&self) -> u32 {
        self.cwnd
    }

    fn acknowledged(&mut self, bytes: u32, mss: u32) {
        if self.cwnd < self.ssthresh {
            // Slow start by bytes acknowledged: splitting ACKs gains the peer nothing (RFC 3465). Receivers that merge
            // segments send few ACKs, hence the limit of RFC 9406, section 4.2, instead of two segments.
            self.cwnd = (self.cwnd + bytes.min(STRETCH * mss)).min(WINDOW_MAX);
            return;
        }
        self.counted += bytes.min(self.cwnd);
        if self.counted >= self.cwnd {
            self.counted -= self.cwnd;
            self.cwnd = (self.cwnd + mss).min(WINDOW_MAX);
        }
    }

    fn lost(&mut self, flight: u32, mss: u32) {
        self.ssthresh = Self::half(flight, mss);
        self.cwnd = self.ssthresh;
        self.counted = 0;
    }

    fn timed_out(&mut self, flight: u32, mss: u32, first: bool) {
        if first {
            self.ssthresh = Self::half(flight, mss);
        }
        self.cwnd = mss;
        self.counted = 0;
    }

    fn idled(&mut self, mss: u32) {
        // RFC 5681, section 4.1.
        self.cwnd = self.cwnd.min(Self::initial(mss));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1000;

    #[test]
    fn begins_with_ten_segments() {
        assert_eq!(NewReno::new(1460).window(), 14_600);
        assert_eq!(NewReno::new(536).window(), 5_360);
        assert_eq!(NewReno::new(8948).window(), 17_896);
    }

    #[test]
    fn doubles_in_slow_start_and_ignores_ack_division() {
        let mut control = NewReno::new(MSS);
        for _ in 0..5 {
            control.acknowledged(2 * MSS, MSS);
        }
        assert_eq!(control.window(), 20 * MSS);
        for _ in 0..100 {
            control.acknowledged(10, MSS);
        }
        assert_eq!(control.window(), 21 * MSS);
        control.acknowledged(50 * MSS, MSS);
        assert_eq!(control.window(), 29 * MSS);
    }

    #[test]
    fn grows_by_one_segment_per_window_after_loss() {
        let mut control = NewReno::new(MSS);
        control.lost(20 * MSS, MSS);
        assert_eq!(control.window(), 10 * MSS);
        for _ in 0..10 {
            control.acknowledged(MSS, MSS);
        }
        assert_eq!(control.window(), 11 * MSS);
    }

    #[test]
    fn collapses_on_timeout_and_keeps_the_threshold_on_the_next() {
        let mut control = NewReno::new(MSS);
        control.timed_out(20 * MSS, MSS, true);
        control.timed_out(MSS, MSS, false);
        assert_eq!((control.window(), control.ssthresh), (MSS, 10 * MSS));
        control.lost(MSS, MSS);
        assert_eq!(control.window(), 2 * MSS);
    }
}
