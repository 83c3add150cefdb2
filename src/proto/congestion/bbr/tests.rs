//! The model on a path of its own, with a test for each row of the draft's state machine and for
//! many of its examples (draft-ietf-ccwg-bbr, appendix). What the names of the draft's steps do is
//! in the comments of the tested code.

mod path;

use self::path::Path;
use super::state::AckPhase;
use super::*;

const PACKET: u64 = 1_200;
const INITIAL_WINDOW: u64 = 12_000;

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn is_near(one: f64, other: f64, part: f64) -> bool {
    (one - other).abs() <= part * other
}

#[test]
fn startup_doubles_the_rate_and_ends_when_no_more_is_delivered() {
    let mut path = Path::new();
    assert!(
        is_near(path.bbr.pacing_rate, 2.77 * 12_000e3, 0.01),
        "1 ms is supposed"
    );
    path.run_until_it(|bbr| bbr.max_bw.get() > 0.0);
    assert_eq!(
        (path.bbr.pacing_gain(), path.bbr.window_gain()),
        (2.77, 2.0)
    );
    // The first round trip is known, so the initial window is spread over it.
    assert!(path.bbr.pacing_rate < 3.0 * 12_000.0 / 0.05);

    let mut rates = Vec::new();
    while path.bbr.state == State::Startup {
        let round = path.bbr.round.count;
        path.run_until_it(|bbr| bbr.round.count > round || bbr.state != State::Startup);
        rates.push(path.bbr.max_bw.get());
    }
    let below: Vec<_> = rates
        .iter()
        .filter(|&&rate| rate < 0.5 * path.rate)
        .collect();
    assert!(below.len() >= 3, "{rates:?}");
    assert!(
        below.windows(2).all(|pair| *pair[1] > 1.4 * pair[0]),
        "{rates:?}"
    );

    assert_eq!(path.bbr.state, State::Drain);
    assert!(path.bbr.full_pipe.was_reached);
    assert!(
        is_near(path.bbr.max_bw.get(), path.rate, 0.02),
        "{}",
        path.bbr.max_bw.get()
    );
    assert!(path.bbr.inflight_long.is_infinite(), "nothing was lost");
}

/// What a probe has sent is judged a round after it was sent.
#[test]
fn beginning_and_end_of_a_probe_are_noted_when_a_round_begins() {
    for (before, after) in [
        (AckPhase::ProbeStarting, AckPhase::ProbeFeedback),
        (AckPhase::ProbeStopping, AckPhase::ProbeStopped),
    ] {
        for (is_start, phase) in [(false, before), (true, after)] {
            let mut bbr = Path::new().bbr;
            bbr.cycle.phase = before;
            bbr.round.is_start = is_start;
            let is_decided = bbr.adapt_long_term(&Sample::default());
            assert_eq!(bbr.cycle.phase, phase);
            assert_eq!(is_decided, phase == AckPhase::ProbeStopped);
        }
    }
}

/// Three rounds with less than a quarter more, or less than three without.
#[test]
fn pipe_is_full_after_three_rounds_without_growth() {
    let mut bbr = Path::new().bbr;
    let round = |bbr: &mut Bbr, rate: f64, is_app_limited: bool| {
        bbr.round.is_start = true;
        let sample = Sample {
            rate,
            is_app_limited,
            ..Sample::default()
        };
        bbr.check_full_pipe(&sample);
        bbr.full_pipe.was_reached
    };
    assert!(!round(&mut bbr, 100.0, false));
    assert!(!round(&mut bbr, 124.0, false) && !round(&mut bbr, 124.0, false));
    assert!(!round(&mut bbr, 125.0, false), "it has grown");
    for _ in 0..9 {
        assert!(!round(&mut bbr, 10.0, true), "the application has no more");
    }
    assert!(!round(&mut bbr, 150.0, false) && !round(&mut bbr, 150.0, false));
    assert!(round(&mut bbr, 150.0, false));
}

#[test]
fn inflight_long_rises_by_a_packet_for_each_share_that_is_acknowledged() {
    let mut bbr = Path::new().bbr;
    bbr.round.is_limited[0] = true;
    bbr.round.is_start = false;
    bbr.window = 100_000.0;
    bbr.inflight_long = 50_000.0;
    bbr.cycle.acked_per_packet = 1_000.0;
    for (newly_acked, packets, rest) in [(900, 0.0, 900.0), (1_600, 2.0, 500.0), (500, 3.0, 0.0)] {
        let sample = Sample {
            newly_acked,
            ..Sample::default()
        };
        bbr.raise_inflight_long(&sample);
        let inflight_long = 50_000.0 + packets * PACKET as f64;
        assert_eq!(
            (bbr.inflight_long, bbr.cycle.up_acked),
            (inflight_long, rest)
        );
    }
}

#[test]
fn startup_ends_with_many_losses() {
    let mut path = Path::new();
    path.queue_bytes = 60_000.0;
    path.run_until(State::Drain);
    let bbr = &path.bbr;
    assert!(bbr.full_pipe.was_reached && bbr.inflight_long.is_finite());
    let least = bbr.bdp(bbr.bw);
    assert!(
        bbr.inflight_long >= 0.9 * least,
        "{} {least}",
        bbr.inflight_long
    );
    assert!(bbr.inflight_long <= path.bdp() + 2.0 * path.queue_bytes);
}

/// Even if the application has little to send.
#[test]
fn startup_ends_with_many_losses_although_the_application_is_the_limit() {
    let mut path = Path::new();
    path.writes = 3e6;
    path.run(Duration::from_secs(1));
    assert_eq!(path.bbr.state, State::Startup, "without loss it goes on");
    path.lost_of_1000 = 100;
    path.run(Duration::from_secs(1));
    assert!(path.bbr.full_pipe.was_reached && path.bbr.state.is_probe_bw());
    assert!(path.bbr.inflight_long.is_finite());
}

/// Two packets in a round of 50 ms, and twelve in one of 500 ms, which are 1 %.
#[test]
fn startup_does_not_end_with_few_losses() {
    for (rtt, most) in [(50, 5), (500, 15)] {
        let mut path = Path::new();
        path.rtt = ms(rtt);
        path.writes = 3e6;
        path.lost_of_1000 = 10;
        let mut losses = 0;
        while path.age() < Duration::from_secs(10) {
            path.run(ms(1));
            losses = losses.max(path.bbr.latest.losses);
        }
        assert_eq!(path.states, [State::Startup], "{rtt}");
        assert!(losses <= most && losses > most / 3, "{rtt}: {losses}");
    }
}

#[test]
fn drain_ends_when_the_queue_is_gone() {
    let mut path = Path::new();
    path.run_until(State::Drain);
    assert_eq!(path.bbr.pacing_gain(), 0.5);
    let bdp = |bbr: &Bbr| bbr.quantize(bbr.bdp(bbr.bw));
    assert!(path.bbr.sampler.in_flight() as f64 > bdp(&path.bbr));
    path.run_until_it(|bbr| bbr.state != State::Drain);
    assert!(path.bbr.sampler.in_flight() as f64 <= bdp(&path.bbr));
    assert!(path.bbr.round.count <= path.bbr.drain_start_round + 3);
    // Without a queue, Down is over at once.
    assert_eq!(path.bbr.state, State::Cruise);
}

#[test]
fn drain_ends_after_three_rounds_in_any_case() {
    let mut path = Path::new();
    path.run_until(State::Drain);
    let (now, bbr) = (path.now, &mut path.bbr);
    for (round, state) in [(3, State::Drain), (4, State::Down)] {
        bbr.round.count = bbr.drain_start_round + round;
        bbr.check_drain_done(now);
        assert_eq!(bbr.state, state, "{round}");
    }
    assert!(bbr.sampler.in_flight() as f64 > bbr.quantize(bbr.bdp(bbr.bw)));
}

#[test]
fn a_cycle_has_four_states_with_their_gains() {
    let mut path = Path::new();
    path.run_until(State::Up);
    let first = [
        State::Startup,
        State::Drain,
        State::Cruise,
        State::Refill,
        State::Up,
    ];
    assert_eq!(path.states, first);
    let mut gains = Vec::new();
    for state in [State::Down, State::Cruise, State::Refill, State::Up] {
        path.run_until(state);
        gains.push((path.bbr.pacing_gain(), path.bbr.window_gain()));
    }
    assert_eq!(gains, [(0.9, 2.0), (1.0, 2.0), (1.0, 2.0), (1.25, 2.25)]);
}

/// Or as many rounds as packets fill the path.
#[test]
fn next_probe_comes_after_two_or_three_seconds_or_63_rounds() {
    let long = (12e6, 50, 1_900, 3_300);
    let short = (12e6, 10, 600, 900);
    let narrow = (2.4e6, 10, 150, 300);
    for (rate, rtt, least, most) in [long, short, narrow] {
        let mut path = Path::new();
        path.rate = rate;
        path.rtt = ms(rtt);
        path.run_until(State::Cruise);
        let began = path.now;
        path.run_until(State::Refill);
        let waited = path.now - began;
        assert!((ms(least)..ms(most)).contains(&waited), "{rtt} {waited:?}");
    }
}

#[test]
fn waits_differ() {
    let mut bbr = Path::new().bbr;
    let mut rounds = [0; 2];
    let waits: Vec<_> = (0..100)
        .map(|time| {
            bbr.pick_wait(bbr.began + ms(7 * time));
            assert!((2.0..3.0).contains(&bbr.cycle.wait.as_secs_f64()));
            rounds[bbr.cycle.rounds_since_up as usize] += 1;
            bbr.cycle.wait.as_secs_f64()
        })
        .collect();
    let mean = waits.iter().sum::<f64>() / 100.0;
    assert!((2.35..2.65).contains(&mean), "{mean}");
    assert!(rounds.into_iter().all(|count| count > 30), "{rounds:?}");
}

#[test]
fn down_ends_without_a_queue() {
    let mut path = Path::new();
    path.run_until(State::Up);
    path.run_until(State::Down);
    let bdp = path.bbr.quantize(path.bbr.bdp(path.bbr.max_bw.get()));
    assert!(path.bbr.inflight_long.is_infinite());
    assert!(path.bbr.sampler.in_flight() as f64 > bdp);
    path.run_until(State::Cruise);
    let in_flight = path.bbr.sampler.in_flight() as f64;
    assert!(in_flight <= bdp, "{in_flight} {bdp}");
}

/// 15 % of what may be in flight are left free.
#[test]
fn down_ends_with_headroom_and_cruise_keeps_it() {
    let mut path = Path::new();
    path.run_until(State::Cruise);
    let in_flight = path.bbr.sampler.in_flight() as f64;
    for (part, is_time) in [(0.86, false), (0.84, true)] {
        path.bbr.inflight_long = in_flight / part;
        assert_eq!(path.bbr.is_time_to_cruise(), is_time, "{part}");
    }
    path.bbr.window = 2.0 * in_flight;
    path.bbr.bound_window();
    assert!(is_near(
        path.bbr.window,
        0.85 * path.bbr.inflight_long,
        0.001
    ));
}

/// A path that has become slower than what is sent keeps its queue.
#[test]
fn down_ends_in_time_although_there_is_a_queue() {
    let mut path = Path::new();
    path.run_until(State::Up);
    path.run_until(State::Down);
    path.rate *= 0.85;
    path.bbr.least_rtt.note_probed(path.now);
    let began = path.now;
    path.run_until_it(|bbr| bbr.state != State::Down);
    assert_eq!(path.bbr.state, State::Refill);
    assert!(path.now - began > Duration::from_secs(2));
}

#[test]
fn refill_forgets_the_short_term_and_lasts_a_round() {
    let mut path = Path::new();
    path.run_until(State::Cruise);
    path.lost_of_1000 = 10;
    path.run(ms(500));
    let ShortTerm { bw, inflight } = path.bbr.short_term;
    assert!(bw < path.bbr.max_bw.get() && path.bbr.bw <= bw);
    assert!(inflight < path.bbr.most_inflight() && path.bbr.window <= inflight);
    path.run_until(State::Refill);
    assert!(path.bbr.short_term.bw.is_infinite() && path.bbr.short_term.inflight.is_infinite());
    let began = path.now;
    path.run_until(State::Up);
    let lasted = path.now - began;
    assert!(lasted >= ms(50) && lasted < ms(80), "{lasted:?}");
    assert!(path.bbr.cycle.is_probe_sample);
}

#[test]
fn probe_ends_when_no_more_is_delivered() {
    let mut path = Path::new();
    path.run_until(State::Up);
    let rounds = path.bbr.round.count;
    path.run_until(State::Down);
    assert_eq!(path.bbr.round.count, rounds + 3);
    assert!(!path.bbr.cycle.was_too_high);
    assert!(path.bbr.inflight_long.is_infinite());
}

#[test]
fn probe_ends_with_more_than_2_percent_of_loss() {
    let mut path = Path::new();
    path.run_until(State::Up);
    path.lost_of_1000 = 50;
    path.run_until(State::Down);
    let bbr = &path.bbr;
    assert!(bbr.cycle.was_too_high && !bbr.cycle.is_probe_sample);
    assert!(
        bbr.inflight_long <= 1.3 * path.bdp(),
        "{}",
        bbr.inflight_long
    );
    // It is slower at once, and not with the next acknowledgement.
    assert!(is_near(bbr.pacing_rate, 0.9 * 0.99 * bbr.bw, 0.001));
    assert!(bbr.window <= bbr.inflight_long);
}

/// It is no lower than 0.7 of the target.
#[test]
fn probe_that_was_too_high_bounds_what_is_in_flight_unless_the_application_is_the_limit() {
    for is_app_limited in [true, false] {
        let mut path = Path::new();
        path.run_until(State::Up);
        let (now, bbr) = (path.now, &mut path.bbr);
        let target = bbr.target_inflight();
        bbr.handle_inflight_too_high(now, 0.1 * target, is_app_limited);
        assert!(bbr.cycle.was_too_high && bbr.state == State::Down);
        if is_app_limited {
            assert!(bbr.inflight_long.is_infinite());
        } else {
            assert_eq!(bbr.inflight_long, 0.7 * target);
        }
    }
}

/// A probe that is bounded has not found out yet how much is delivered.
#[test]
fn probe_goes_on_where_the_bound_is_the_limit() {
    for (bound, goes_on) in [(1.0, true), (2.0, false)] {
        let mut path = Path::new();
        path.run_until(State::Up);
        let bbr = &mut path.bbr;
        bbr.inflight_long = bound * bbr.window;
        bbr.round.is_limited = [true; 2];
        let sample = Sample {
            rate: 100.0,
            ..Sample::default()
        };
        for _ in 0..4 {
            bbr.round.is_start = true;
            bbr.check_full_pipe(&sample);
        }
        assert_eq!(bbr.is_time_to_go_down(&sample), !goes_on, "{bound}");
    }
}

/// However long the silence was: the acknowledgement of the probe tells of these packets only after
/// it was handled itself.
#[test]
fn probe_is_too_high_if_all_of_it_was_lost() {
    for silence in [50, 150, 300, 600] {
        let mut path = Path::new();
        path.run_until(State::Up);
        let (delivered, before) = (path.bbr.sampler.delivered(), path.bbr.window);
        path.holds_losses = true;
        path.lose(path.in_flight.len());
        path.now += ms(silence);
        path.free = path.now;
        path.run_until_it(|bbr| bbr.sampler.delivered() > delivered);
        path.tell_lost(path.missing());
        let bbr = &path.bbr;
        assert_eq!(bbr.state, State::Down, "{silence}");
        assert!(bbr.cycle.was_too_high && bbr.inflight_long < before);
    }
}

/// What the others tell begins a round of losses anew.
#[test]
fn losses_after_the_one_that_ends_a_probe_lower_the_short_term() {
    let mut path = Path::new();
    path.run_until(State::Up);
    path.lose(path.in_flight.len());
    path.now += ms(100);
    path.run_until(State::Down);
    assert!(path.bbr.latest.has_loss);
    path.run(ms(200));
    assert!(path.bbr.short_term.inflight.is_finite());
}

/// A path on which the next probe begins.
fn after_a_probe_that_was_too_high() -> Path {
    let mut path = Path::new();
    path.run_until(State::Up);
    path.lost_of_1000 = 50;
    path.run_until(State::Down);
    path.lost_of_1000 = 0;
    path.run_until(State::Up);
    path
}

/// The acknowledgement that ends the round after a probe is the one that tells of the last packets
/// of it.
#[test]
fn last_packets_of_a_probe_still_tell_that_it_was_too_high() {
    for lost in [0, 40] {
        let mut path = after_a_probe_that_was_too_high();
        path.run_until(State::Down);
        assert!(path.bbr.cycle.was_precautionary && !path.bbr.cycle.was_too_high);
        let (round, bound) = (path.bbr.round.count, path.bbr.inflight_long);
        path.holds_losses = true;
        path.lose(lost);
        path.run_until_it(|bbr| bbr.round.count > round);
        assert_eq!(path.bbr.state, State::Down);
        if lost > 0 {
            path.tell_lost(path.missing());
        }
        assert_eq!(path.bbr.cycle.was_too_high, lost > 0);
        assert_eq!(path.bbr.inflight_long < bound, lost > 0);
        path.run_until_it(|bbr| bbr.state != State::Down);
        let next = if lost > 0 {
            State::Cruise
        } else {
            State::Refill
        };
        assert_eq!(path.bbr.state, next);
        // What is lost from now on is not of that probe.
        assert!(!path.bbr.cycle.is_probe_sample);
    }
}

/// Even if that is due already.
#[test]
fn next_probe_does_not_begin_before_the_losses_of_the_last_one_are_told() {
    let mut bbr = Path::new().bbr;
    bbr.full_pipe.was_reached = true;
    bbr.cycle.is_probe_sample = true;
    bbr.start_down(bbr.began);
    let now = bbr.began + Duration::from_secs(4);
    for (is_start, state, is_probe_sample) in
        [(true, State::Down, true), (false, State::Refill, false)]
    {
        bbr.round.is_start = is_start;
        bbr.update_cycle(now, &Sample::default());
        assert_eq!(bbr.state, state);
        assert_eq!(bbr.cycle.is_probe_sample, is_probe_sample);
    }
}

#[test]
fn probe_goes_on_with_less_than_2_percent_of_loss() {
    let mut path = Path::new();
    path.run_until(State::Up);
    path.lost_of_1000 = 10;
    path.run_until(State::Down);
    assert!(!path.bbr.cycle.was_too_high);
    assert!(path.bbr.inflight_long.is_infinite());
}

/// After a probe that was too high, the next one stops where that was, and if nothing is lost,
/// another one follows at once.
#[test]
fn probe_after_one_that_was_too_high_is_cautious() {
    let mut path = after_a_probe_that_was_too_high();
    let before = path.bbr.inflight_long;
    path.run_until_it(|bbr| bbr.state != State::Up);
    assert_eq!(path.bbr.state, State::Down);
    assert!(path.bbr.cycle.was_precautionary);
    let at = path.states.len();
    path.run_until(State::Up);
    assert_eq!(
        path.states[at..],
        [State::Refill, State::Up],
        "without a cruise"
    );
    assert!(!path.bbr.cycle.was_too_high);
    path.run_until(State::Down);
    assert!(path.bbr.inflight_long > before, "nothing was lost");
}

/// What may be in flight grows by 1, 2, 4, … packets in a round.
#[test]
fn slope_of_what_may_be_in_flight_doubles_in_each_round() {
    let mut bbr = Path::new().bbr;
    bbr.window = 100.0 * bbr.mtu;
    let slopes: Vec<_> = (0..9)
        .map(|_| {
            bbr.raise_slope();
            (bbr.window / bbr.cycle.acked_per_packet).round()
        })
        .collect();
    assert_eq!(slopes, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 100.0, 100.0]);
}

#[test]
fn ten_times_the_bandwidth_is_found() {
    let mut path = Path::new();
    path.rate /= 10.0;
    path.queue_bytes /= 10.0;
    path.run_until(State::Cruise);
    path.rate *= 10.0;
    path.queue_bytes *= 10.0;
    path.run(Duration::from_secs(20));
    assert!(
        path.bbr.max_bw.get() > 0.9 * path.rate,
        "{}",
        path.bbr.max_bw.get()
    );
}

#[test]
fn a_tenth_of_the_bandwidth_is_noticed() {
    let mut path = Path::new();
    path.run_until(State::Cruise);
    let before = path.bbr.max_bw.get();
    path.rate /= 10.0;
    path.queue_bytes /= 10.0;
    path.run(ms(1_500));
    assert!(
        path.bbr.short_term.bw < 0.5 * before,
        "{:?}",
        path.bbr.short_term
    );
    path.run(Duration::from_secs(15));
    assert!(
        path.bbr.max_bw.get() < 1.1 * path.rate,
        "{}",
        path.bbr.max_bw.get()
    );
}

/// `max(latest, 0.7 × before)`, once in a round with losses.
#[test]
fn loss_lowers_the_short_term_to_what_was_delivered_but_by_no_more_than_three_tenths() {
    let mut bbr = Path::new().bbr;
    bbr.max_bw.update(1_000.0);
    bbr.window = 100_000.0;
    (bbr.latest.bw, bbr.latest.inflight) = (900.0, 50_000.0);
    bbr.adapt_short_term();
    assert_eq!(
        (bbr.short_term.bw, bbr.short_term.inflight),
        (900.0, 70_000.0)
    );
    (bbr.latest.bw, bbr.latest.inflight) = (500.0, 60_000.0);
    bbr.adapt_short_term();
    assert_eq!(
        (bbr.short_term.bw, bbr.short_term.inflight),
        (630.0, 60_000.0)
    );
}

#[test]
fn loss_does_not_lower_the_short_term_while_the_path_is_probed() {
    let mut path = Path::new();
    path.run_until(State::Refill);
    path.lost_of_1000 = 10;
    path.run_until(State::Down);
    assert!(path.bbr.short_term.bw.is_infinite());
    path.run(ms(200));
    assert!(path.bbr.short_term.bw.is_finite());
}

/// Of 200 packets in flight, 2 % are 4. The last 10 were lost, and 2 before them.
#[test]
fn where_losses_became_too_many_is_known_within_a_batch() {
    let lost = Lost {
        bytes: 10 * PACKET,
        sent_in_flight: 200 * PACKET,
        lost: 12 * PACKET,
        is_app_limited: false,
    };
    let packets = inflight_at_loss(&lost) / PACKET as f64;
    assert!((191.0..192.0).contains(&packets), "{packets}");
    assert!(is_too_much(5, 200) && !is_too_much(4, 200));
}

#[test]
fn round_trip_is_probed_every_five_seconds_with_half_a_window_for_200_ms() {
    let mut path = Path::new();
    path.run_until(State::Cruise);
    // The way becomes longer by so much that nothing refreshes the least.
    path.rtt = ms(60);
    path.run_until(State::ProbeRtt);
    assert!(path.age() > Duration::from_secs(5) && path.age() < Duration::from_secs(7));
    let began = path.now;
    let bdp = path.bbr.bdp(path.bbr.bw);
    assert!(path.bbr.window <= 0.5 * bdp + 1.0);
    path.run_until(State::Cruise);
    let lasted = path.now - began;
    assert!(lasted > ms(200) && lasted < ms(400), "{lasted:?}");
    assert!(path.bbr.window > 0.9 * bdp, "{} {bdp}", path.bbr.window);
    assert_eq!(
        path.bbr.least_rtt.get().map(|rtt| rtt.as_millis()),
        Some(50)
    );
    path.run(Duration::from_secs(8));
    assert_eq!(
        path.bbr.least_rtt.get().map(|rtt| rtt.as_millis()),
        Some(60)
    );
}

#[test]
fn probe_of_the_round_trip_lasts_a_round_at_least() {
    let mut path = Path::new();
    path.rtt = ms(400);
    path.queue_bytes *= 8.0;
    path.run_until(State::Cruise);
    path.rtt = ms(410);
    path.run_until(State::ProbeRtt);
    path.run_until_it(|bbr| bbr.sampler.in_flight() as f64 <= bbr.probe_rtt_window());
    let began = path.now;
    path.run_until_it(|bbr| bbr.state != State::ProbeRtt);
    let lasted = path.now - began;
    assert!(lasted >= ms(410) && lasted < ms(900), "{lasted:?}");
}

/// Little is sent meanwhile, so samples are no smaller for the path. And what was too much before
/// is unknown after it.
#[test]
fn probe_of_the_round_trip_says_nothing_about_the_bandwidth() {
    let mut path = Path::new();
    path.run_until(State::Cruise);
    path.rtt = ms(60);
    path.run_until(State::ProbeRtt);
    path.run(ms(20));
    assert!(path.bbr.sampler.is_app_limited());
    path.bbr.short_term = ShortTerm {
        bw: path.rate,
        inflight: path.bdp(),
    };
    path.run_until_it(|bbr| bbr.state != State::ProbeRtt);
    assert!(path.bbr.short_term.bw.is_infinite() && path.bbr.short_term.inflight.is_infinite());
}

/// Five seconds from its end, not from its beginning.
#[test]
fn next_probe_of_the_round_trip_is_due_five_seconds_later() {
    let mut bbr = Path::new().bbr;
    let began = bbr.began;
    bbr.least_rtt.update(began, ms(50));
    let now = began + Duration::from_secs(4);
    bbr.state = State::ProbeRtt;
    bbr.probe_rtt.done = Some(began);
    bbr.check_probe_rtt_done(now);
    assert_eq!(bbr.state, State::Startup);
    for (after, is_due) in [(5_000, false), (5_001, true)] {
        bbr.least_rtt.update(now + ms(after), ms(50));
        assert_eq!(bbr.least_rtt.is_expired(), is_due, "{after}");
    }
}

#[test]
fn startup_goes_on_after_the_round_trip_was_probed() {
    let mut path = Path::new();
    path.rtt = Duration::from_secs(1);
    path.run_until(State::ProbeRtt);
    assert!(!path.bbr.full_pipe.was_reached);
    path.run_until(State::Startup);
    assert_eq!(
        path.states,
        [State::Startup, State::ProbeRtt, State::Startup]
    );
}

#[test]
fn flow_that_writes_little_is_not_held_back_to_probe_the_round_trip() {
    let mut path = Path::new();
    path.run_until(State::Cruise);
    path.writes = path.rate / 20.0;
    path.rtt = ms(60);
    path.run(Duration::from_secs(20));
    assert!(!path.states.contains(&State::ProbeRtt), "{:?}", path.states);
    assert_eq!(
        path.bbr.least_rtt.get().map(|rtt| rtt.as_millis()),
        Some(60)
    );
}

#[test]
fn silence_makes_a_probe_of_the_round_trip_unnecessary() {
    let mut path = Path::new();
    path.run_until(State::Cruise);
    path.writes = 1.0;
    path.has_data = path.now;
    path.run(Duration::from_secs(3));
    path.writes = f64::INFINITY;
    path.has_data = path.now + Duration::from_secs(6);
    path.rtt = ms(60);
    path.run(Duration::from_secs(8));
    assert!(!path.states.contains(&State::ProbeRtt), "{:?}", path.states);
}

#[test]
fn samples_that_the_application_has_limited_do_not_lower_the_bandwidth() {
    let mut path = Path::new();
    path.run_until(State::Cruise);
    path.writes = path.rate / 20.0;
    // So that probes end.
    path.lost_of_1000 = 40;
    path.run(Duration::from_secs(20));
    let probes = (path.states.iter()).filter(|&&state| state == State::Down);
    assert!(probes.count() > 2, "{:?}", path.states);
    assert!(
        is_near(path.bbr.max_bw.get(), path.rate, 0.05),
        "{}",
        path.bbr.max_bw.get()
    );
}

/// Neither are they part of the maximum, nor do they let an older one be forgotten.
#[test]
fn sample_that_the_application_has_limited_counts_only_if_it_is_the_largest() {
    for is_app_limited in [true, false] {
        let sample = |rate| Sample {
            rate,
            is_app_limited,
            ..Sample::default()
        };
        let mut bbr = Path::new().bbr;
        bbr.update_max_bw(&sample(1_000.0));
        bbr.max_bw.advance();
        bbr.update_max_bw(&sample(10.0));
        bbr.max_bw.advance();
        let largest = if is_app_limited { 1_000.0 } else { 10.0 };
        assert_eq!(bbr.max_bw.get(), largest);

        let mut bbr = Path::new().bbr;
        bbr.max_bw.update(1_000.0);
        bbr.start_down(bbr.began);
        bbr.round.is_start = true;
        bbr.adapt_long_term(&sample(10.0));
        bbr.max_bw.update(10.0);
        bbr.max_bw.advance();
        let largest = if is_app_limited { 1_000.0 } else { 10.0 };
        assert_eq!(bbr.max_bw.get(), largest);
    }
}

#[test]
fn cruise_leaves_no_queue_and_fills_the_path() {
    let mut path = Path::new();
    path.run_until(State::Cruise);
    path.run(ms(300));
    let (from, delivered) = (path.now, path.bbr.sampler.delivered());
    path.run(ms(1_000));
    assert_eq!(path.bbr.state, State::Cruise);
    let rate = (path.bbr.sampler.delivered() - delivered) as f64 / (path.now - from).as_secs_f64();
    assert!(rate > 0.97 * path.rate, "{rate}");
    let queued = path.free.saturating_duration_since(path.now);
    assert!(queued < ms(5), "{queued:?}");
}

#[test]
fn acknowledgements_that_come_together_widen_the_window() {
    let mut path = Path::new();
    path.run_until(State::Cruise);
    let bbr = &mut path.bbr;
    bbr.extra_acked = RoundMax::default();
    let before = bbr.most_inflight();
    bbr.extra_interval = (path.now, 0.0);
    let sample = Sample {
        newly_acked: 50_000,
        ..Sample::default()
    };
    bbr.update_aggregation(path.now, &sample);
    assert_eq!(bbr.extra_acked.get(), 50_000.0);
    assert_eq!(bbr.most_inflight(), before + 50_000.0);
    // 4 ms later, less was expected than has come; after 10 ms, more was.
    let none = Sample::default();
    bbr.update_aggregation(path.now + ms(4), &none);
    assert_eq!(bbr.extra_interval, (path.now, 50_000.0));
    bbr.update_aggregation(path.now + ms(10), &none);
    assert_eq!(bbr.extra_interval, (path.now + ms(10), 0.0));
    assert_eq!(bbr.extra_acked.get(), 50_000.0, "it is remembered");
}

#[test]
fn window_has_four_packets_on_a_path_that_holds_less_than_one() {
    let mut path = Path::new();
    path.rate = 50_000.0;
    path.rtt = ms(2);
    path.queue_bytes = 100_000.0;
    path.run(Duration::from_secs(30));
    assert!(path.bbr.full_pipe.was_reached);
    assert!(path.bbr.window >= 4.0 * path.bbr.mtu);
    assert!(
        is_near(path.bbr.max_bw.get(), path.rate, 0.1),
        "{}",
        path.bbr.max_bw.get()
    );
}

#[test]
fn no_bound_is_below_four_packets() {
    let mut bbr = Path::new().bbr;
    let four = 4.0 * bbr.mtu;
    bbr.pacing_rate = 1.0;
    assert_eq!(bbr.quantize(0.0), four);
    bbr.state = State::Up;
    assert_eq!(bbr.quantize(0.0), four + 2.0 * PACKET as f64);
    bbr.window = 0.0;
    bbr.set_window(0.0);
    assert_eq!(bbr.window, four);
    bbr.state = State::Down;
    bbr.inflight_long = 1.0;
    bbr.window = 2.0 * four;
    bbr.bound_window();
    assert_eq!(bbr.window, four);
}

/// Until an initial window was delivered, what the model says is too little.
#[test]
fn window_grows_with_the_first_packets_whatever_the_model_says() {
    for (delivered, growth) in [(0, PACKET), (INITIAL_WINDOW, 0)] {
        let mut bbr = Path::new().bbr;
        bbr.pacing_rate = 1.0;
        bbr.least_rtt.update(bbr.began, ms(1));
        bbr.sampler
            .note_acknowledged(bbr.began, bbr.began, delivered);
        assert!(bbr.window > bbr.most_inflight());
        let before = bbr.window;
        bbr.set_window(PACKET as f64);
        assert_eq!(bbr.window, before + growth as f64);
    }
}

#[test]
fn a_mark_of_ecn_ends_startup_and_a_probe() {
    let mut path = Path::new();
    path.run(ms(200));
    let now = path.now;
    path.bbr.on_congestion_event(now, now, false, 0);
    path.run(ms(200));
    assert!(path.states.contains(&State::Drain), "{:?}", path.states);
    path.run_until(State::Up);
    let in_flight = path.bbr.sampler.in_flight() as f64;
    assert!(!path.bbr.cycle.was_too_high && path.bbr.inflight_long > in_flight);
    path.bbr.on_congestion_event(path.now, path.now, false, 0);
    assert_eq!(path.bbr.state, State::Down);
    assert!(path.bbr.cycle.was_too_high);
    assert_eq!(path.bbr.inflight_long, in_flight);
}

/// RFC 9002 §7.6.2.
#[test]
fn persistent_congestion_leaves_little_until_something_arrives() {
    let mut path = Path::new();
    path.run_until(State::Cruise);
    let before = path.bbr.window;
    let newest = path.in_flight.back().unwrap().sent;
    let lost = path.in_flight.drain(..).count() as u64 * PACKET;
    path.now += ms(500);
    path.bbr.on_congestion_event(path.now, newest, true, lost);
    assert_eq!(path.bbr.window, 4.0 * path.bbr.mtu);
    path.run(ms(300));
    assert!(
        path.bbr.window > 0.6 * before,
        "{} {before}",
        path.bbr.window
    );
}

#[test]
fn window_comes_back_with_a_packet_that_was_sent_after_the_losses() {
    let lost = crate::net::clock::now();
    for (after, windows) in [(0, 1.0), (1, 2.0)] {
        let mut bbr = Path::new().bbr;
        let window = bbr.window;
        bbr.recovery = Some(lost);
        bbr.prior_window = 2.0 * window;
        let sample = Sample {
            sent: Some(lost + ms(after)),
            ..Sample::default()
        };
        bbr.leave_recovery(&sample);
        assert_eq!(bbr.window, windows * window);
    }
}

#[test]
fn what_is_not_in_flight_is_not_counted() {
    let mut path = Path::new();
    path.run(ms(100));
    let before = path.bbr.sampler.in_flight();
    path.bbr.on_sent(path.now, 40, 0);
    path.bbr.shared.note_sent(40, false);
    path.bbr.settle();
    assert_eq!(path.bbr.sampler.in_flight(), before);
    path.bbr.on_sent(path.now, PACKET, 0);
    path.bbr.shared.note_sent(PACKET, true);
    path.bbr.settle();
    assert_eq!(path.bbr.sampler.in_flight(), before + PACKET);
}
