//! Sleeping until a frame, a command or a timer: the adaptive half of polling.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use hedgerow_dataplane::frame::Port;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::core::Core;
use crate::management::Commands;

/// Sleeps for `nap` at most. Returns at once where a port has frames that no descriptor tells of.
pub(super) fn park<P: Port>(core: &mut Core<P>, commands: &Commands, nap: Duration) -> io::Result<()> {
    let Some(descriptors) = core.park() else { return Ok(()) };
    let wake = commands.fd();
    let mut fds: Vec<PollFd<'_>> =
        descriptors.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    fds.push(PollFd::from_borrowed_fd(wake.as_fd(), PollFlags::IN));
    let timeout = Timespec { tv_sec: nap.as_secs() as i64, tv_nsec: i64::from(nap.subsec_nanos()) };
    match poll(&mut fds, Some(&timeout)) {
        // An error of a port is found and named by its next receive.
        Ok(_) => {}
        Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    commands.clear();
    Ok(())
}
