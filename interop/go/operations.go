package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/protocol/autonatv2"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
)

// streamBytes is the payload of each of many streams.
const streamBytes = 1024

// remote is the peer that was dialled.
type remote struct {
	ctx  context.Context
	host host.Host
	id   peer.ID
	nat  *autonatv2.AutoNAT
}

func (r *remote) run(operation string, opts options) (result, error) {
	switch operation {
	case "autonat":
		return r.autonat()
	case "close-fetches":
		return r.closeFetches(opts.size)
	case "close-hears":
		return r.closeHears(opts.code)
	case "close-mid-upload":
		return r.closeMidUpload()
	case "close-redial":
		return r.closeRedial()
	case "echo":
		hash, err := r.echo(opts.size, opts.inFlight, 0)
		return result{"bytes": opts.size, "sha256": hash}, err
	case "half-close":
		return r.halfClose()
	case "identify":
		return r.identify()
	case "idle":
		time.Sleep(time.Duration(opts.seconds) * time.Second)
		_, err := r.echo(streamBytes, streamBytes, 0)
		return result{"seconds": opts.seconds}, err
	case "killed":
		return r.killed()
	case "perf":
		return r.perf(opts.size)
	case "ping":
		return r.ping(opts.count)
	case "reset":
		return r.reset(opts.code)
	case "slow-reader":
		return r.slowReader(opts)
	case "stop":
		return r.stop(opts.code)
	case "streams":
		return r.streams(opts)
	}
	return nil, fmt.Errorf("%w: operation %s", errUnsupported, operation)
}

// open opens a stream on the connection that there is.
func (r *remote) open(id protocol.ID) (network.Stream, error) {
	return r.host.NewStream(network.WithNoDial(r.ctx, "the connection is part of the test"), r.id, id)
}

func (r *remote) ping(count int) (result, error) {
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	var rtts []int64
	for pong := range ping.Ping(ctx, r.host, r.id) {
		if pong.Error != nil {
			return nil, pong.Error
		}
		rtts = append(rtts, pong.RTT.Microseconds())
		if len(rtts) == count {
			slices.Sort(rtts)
			return result{"count": count, "median_us": rtts[count/2]}, nil
		}
	}
	return nil, fmt.Errorf("%d pongs", len(rtts))
}

func (r *remote) identify() (result, error) {
	// Connect has waited for it.
	agent, err := r.host.Peerstore().Get(r.id, "AgentVersion")
	if err != nil {
		return nil, err
	}
	protocols, err := r.host.Peerstore().GetProtocols(r.id)
	if err != nil {
		return nil, err
	}
	key := r.host.Peerstore().PubKey(r.id)
	if key == nil || !r.id.MatchesPublicKey(key) {
		return nil, errors.New("the public key is that of another peer")
	}
	return result{"agent_version": agent, "peer_id": r.id.String(), "protocols": protocols}, nil
}

func (r *remote) echo(size, inFlight int64, seed uint64) (string, error) {
	s, err := r.open(echoProtocol)
	if err != nil {
		return "", err
	}
	defer s.Reset()
	var received atomic.Int64
	progress := make(chan struct{}, 1)
	written := make(chan error, 1)
	sent := sha256.New()
	stopped := make(chan struct{})
	defer close(stopped)
	go func() {
		pattern := newPattern(seed)
		block := make([]byte, blockBytes)
		for total := int64(0); total < size; {
			length := min(size-total, blockBytes, inFlight)
			for total+length-received.Load() > inFlight {
				select {
				case <-progress:
				case <-stopped:
					return
				}
			}
			pattern.fill(block[:length])
			sent.Write(block[:length])
			if _, err := s.Write(block[:length]); err != nil {
				written <- err
				return
			}
			total += length
		}
		written <- s.CloseWrite()
	}()
	echoed := sha256.New()
	block := make([]byte, blockBytes)
	for {
		length, err := s.Read(block)
		echoed.Write(block[:length])
		received.Add(int64(length))
		select {
		case progress <- struct{}{}:
		default:
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return "", err
		}
	}
	if received.Load() != size {
		return "", fmt.Errorf("%d bytes of %d came back", received.Load(), size)
	}
	if err := <-written; err != nil {
		return "", err
	}
	if !bytes.Equal(sent.Sum(nil), echoed.Sum(nil)) {
		return "", errors.New("what came back is not what was sent")
	}
	return hex.EncodeToString(echoed.Sum(nil)), nil
}

func (r *remote) perf(size int64) (result, error) {
	upload, err := r.perfOnce(size, 0)
	if err != nil {
		return nil, err
	}
	download, err := r.perfOnce(0, size)
	if err != nil {
		return nil, err
	}
	return result{
		"bytes":          size,
		"download_mib_s": mibPerSecond(size, download),
		"upload_mib_s":   mibPerSecond(size, upload),
	}, nil
}

func (r *remote) perfOnce(upload, download int64) (time.Duration, error) {
	s, err := r.open(perfProtocol)
	if err != nil {
		return 0, err
	}
	defer s.Reset()
	start := time.Now()
	if _, err := s.Write(binary.BigEndian.AppendUint64(nil, uint64(download))); err != nil {
		return 0, err
	}
	if err := writeZeros(s, upload); err != nil {
		return 0, err
	}
	if err := s.CloseWrite(); err != nil {
		return 0, err
	}
	received, err := io.Copy(io.Discard, s)
	if err != nil {
		return 0, err
	}
	if received != download {
		return 0, fmt.Errorf("%d bytes of %d", received, download)
	}
	return time.Since(start), nil
}

func (r *remote) streams(opts options) (result, error) {
	places := make(chan struct{}, opts.parallel)
	failures := make(chan error, opts.count)
	var all sync.WaitGroup
	for seed := range opts.count {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			if _, err := r.echo(streamBytes, streamBytes, uint64(seed)); err != nil {
				failures <- err
			}
		})
	}
	all.Wait()
	if len(failures) > 0 {
		return nil, fmt.Errorf("%d of %d failed: %w", len(failures), opts.count, <-failures)
	}
	return result{"count": opts.count, "parallel": opts.parallel}, nil
}

func (r *remote) halfClose() (result, error) {
	// First by us: the peer answers when our half has ended.
	if _, err := r.perfOnce(blockBytes, blockBytes); err != nil {
		return nil, err
	}
	// Then by the peer: our half still carries data when its has ended.
	s, err := r.open(halfCloseProtocol)
	if err != nil {
		return nil, err
	}
	defer s.Reset()
	received, err := io.Copy(io.Discard, s)
	if err != nil {
		return nil, err
	}
	if received != halfCloseBytes {
		return nil, fmt.Errorf("%d bytes before the peer's half ended", received)
	}
	if err := writeZeros(s, halfCloseBytes); err != nil {
		return nil, err
	}
	if err := s.CloseWrite(); err != nil {
		return nil, err
	}
	report, err := r.report()
	if err != nil {
		return nil, err
	}
	if report["received"] != float64(halfCloseBytes) {
		return nil, fmt.Errorf("the peer has received %v", report)
	}
	return result{}, nil
}

func (r *remote) reset(code uint64) (result, error) {
	s, err := r.request(requestReset, code)
	if err != nil {
		return nil, err
	}
	answer, err := io.ReadAll(s)
	seen := codeOf(err)
	if err == nil {
		if !bytes.Equal(answer, []byte{answerUnsupported}) {
			return nil, errors.New("the peer's half ended, and was not reset")
		}
		seen = "unsupported"
	}
	s.Reset()
	report, err := r.watch(requestWatchReset, code)
	if err != nil {
		return nil, err
	}
	return result{"seen": seen, "peer_saw": report["code"]}, nil
}

func (r *remote) stop(code uint64) (result, error) {
	s, err := r.request(requestStop, code)
	if err != nil {
		return nil, err
	}
	var seen any = "unsupported"
	// A peer that can only end both halves may never get to answer.
	var answer [1]byte
	if _, err := io.ReadFull(s, answer[:]); err != nil || answer[0] != answerUnsupported {
		seen = codeOf(writeUntilError(s))
	}
	s.Reset()
	report, err := r.watch(requestWatchStop, code)
	if err != nil {
		return nil, err
	}
	return result{"seen": seen, "peer_saw": report["code"]}, nil
}

// watch ends both halves with the code, and returns what the peer has seen of it.
func (r *remote) watch(request byte, code uint64) (result, error) {
	s, err := r.request(request, code)
	if err != nil {
		return nil, err
	}
	var ready [1]byte
	if _, err := io.ReadFull(s, ready[:]); err != nil {
		return nil, err
	}
	if ready[0] != answerReady {
		return nil, errors.New("the peer is not ready")
	}
	if err := s.ResetWithError(network.StreamErrorCode(code)); err != nil {
		return nil, err
	}
	report, err := r.report()
	if err != nil {
		return nil, err
	}
	if report["error"] == nil {
		return nil, fmt.Errorf("the peer has seen %v instead of an error", report)
	}
	return report, nil
}

func (r *remote) request(request byte, code uint64) (network.Stream, error) {
	s, err := r.open(abortProtocol)
	if err != nil {
		return nil, err
	}
	_, err = s.Write(binary.BigEndian.AppendUint64([]byte{request}, code))
	return s, err
}

func (r *remote) killed() (result, error) {
	s, err := r.open(echoProtocol)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	writeError := make(chan error)
	go func() { writeError <- writeZeros(s, math.MaxInt64) }()
	block := make([]byte, blockBytes)
	for announced := false; ; {
		_, err := s.Read(block)
		if err != nil {
			return result{
				"after_ms":    time.Since(start).Milliseconds(),
				"read_error":  err.Error(),
				"write_error": (<-writeError).Error(),
			}, nil
		}
		if !announced {
			printLine(result{"transferring": true})
			announced = true
		}
	}
}

func (r *remote) slowReader(opts options) (result, error) {
	s, err := r.open(slowProtocol)
	if err != nil {
		return nil, err
	}
	defer s.Reset()
	delay := time.Duration(opts.seconds) * time.Second
	if _, err := s.Write(binary.BigEndian.AppendUint64(nil, uint64(delay.Milliseconds()))); err != nil {
		return nil, err
	}
	var sent, unread atomic.Int64
	// Long enough for the sender to have filled all that it can, not so long that the peer reads.
	time.AfterFunc(delay*8/10, func() { unread.Store(sent.Load()) })
	pattern := newPattern(0)
	hash := sha256.New()
	block := make([]byte, blockBytes)
	for sent.Load() < opts.size {
		length := min(opts.size-sent.Load(), blockBytes)
		pattern.fill(block[:length])
		hash.Write(block[:length])
		if _, err := s.Write(block[:length]); err != nil {
			return nil, err
		}
		sent.Add(length)
	}
	if err := s.CloseWrite(); err != nil {
		return nil, err
	}
	answer, err := io.ReadAll(s)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(answer, hash.Sum(nil)) {
		return nil, errors.New("the hash of what the peer has read is wrong")
	}
	if unread.Load() >= opts.size {
		return nil, errors.New("the sender was not blocked")
	}
	return result{"bytes": opts.size, "unread_bytes": unread.Load()}, nil
}

// report is what the peer has seen; it may take a moment to.
func (r *remote) report() (result, error) {
	for range 30 {
		report, err := r.ask(reportProtocol)
		if report != nil || err != nil {
			return report, err
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil, nil
}

// ask returns what the peer says of itself by this protocol.
func (r *remote) ask(id protocol.ID) (result, error) {
	s, err := r.open(id)
	if err != nil {
		return nil, err
	}
	s.CloseWrite()
	text, err := io.ReadAll(s)
	if err != nil {
		return nil, err
	}
	var answer result
	return answer, json.Unmarshal(text, &answer)
}

func wrongPeer(ctx context.Context, h host.Host, info peer.AddrInfo) error {
	_, key, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return err
	}
	info.ID, err = peer.IDFromPublicKey(key)
	if err != nil {
		return err
	}
	err = h.Connect(ctx, info)
	if err == nil {
		return errors.New("connected")
	}
	printLine(result{"ok": true, "error": err.Error()})
	return nil
}

// pattern makes bytes that do not repeat within a block, nor from one stream to the next.
type pattern uint64

func newPattern(seed uint64) *pattern {
	p := pattern(seed*0x9e3779b97f4a7c15 | 1)
	return &p
}

func (p *pattern) fill(block []byte) {
	var word [8]byte
	for len(block) > 0 {
		// xorshift64
		*p ^= *p << 13
		*p ^= *p >> 7
		*p ^= *p << 17
		binary.LittleEndian.PutUint64(word[:], uint64(*p))
		block = block[copy(block, word[:]):]
	}
}

func mibPerSecond(size int64, took time.Duration) int64 {
	return int64(float64(size) / (1 << 20) / took.Seconds())
}
