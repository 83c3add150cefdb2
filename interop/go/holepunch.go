package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	relayclient "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/holepunch"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multistream"
)

// holePunchAttempts is how often DCUtR tries.
const holePunchAttempts = 3

// puncher is a host behind a NAT, connected to a relay. It prints what the example hole_punch
// prints with --json.
type puncher struct {
	host   host.Host
	relay  peer.AddrInfo
	addr   string
	direct chan network.Conn
	missed chan string
}

// holePunch runs "hole-punch listen RELAY" or "hole-punch dial RELAY PEER_ID".
func holePunch(words []string, opts options) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(opts.timeout)*time.Second)
	defer cancel()
	p, err := join(ctx, words[1], opts)
	if err != nil {
		return err
	}
	defer p.host.Close()
	switch {
	case words[0] == "listen" && len(words) == 2:
		return p.listen(ctx)
	case words[0] == "dial" && len(words) == 3:
		return p.dial(ctx, words[2])
	}
	return errors.New(usage)
}

// join connects to the relay, and waits until the host knows how the world sees it.
func join(ctx context.Context, relay string, opts options) (*puncher, error) {
	info, err := peer.AddrInfoFromString(relay)
	if err != nil {
		return nil, err
	}
	p := &puncher{
		relay:  *info,
		addr:   relay,
		direct: make(chan network.Conn, 16),
		missed: make(chan string, 16),
	}
	p.host, err = newHost(opts,
		libp2p.ListenAddrStrings("/ip4/0.0.0.0/udp/0/quic-v1"),
		libp2p.EnableRelay(),
		libp2p.ForceReachabilityPrivate(),
		libp2p.EnableHolePunching(holepunch.WithTracer(p)),
	)
	if err != nil {
		return nil, err
	}
	p.host.Network().Notify(&network.NotifyBundle{ConnectedF: p.connected})
	if err := p.host.Connect(ctx, *info); err != nil {
		return nil, err
	}
	// The protocol is served as soon as there is an address to punch a hole to.
	for !slices.Contains(p.host.Mux().Protocols(), holepunch.Protocol) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	return p, nil
}

func (p *puncher) listen(ctx context.Context) error {
	if _, err := relayclient.Reserve(ctx, p.host, p.relay); err != nil {
		return err
	}
	printLine(result{"event": "reserved", "peer_id": p.host.ID().String()})
	for {
		select {
		case conn := <-p.direct:
			printLine(p.found(conn))
		case reason := <-p.missed:
			printLine(result{"event": "missed", "error": reason})
		case <-ctx.Done():
			return nil
		}
	}
}

func (p *puncher) dial(ctx context.Context, id string) error {
	target, err := peer.Decode(id)
	if err != nil {
		return err
	}
	circuit, err := ma.NewMultiaddr(p.addr + "/p2p-circuit")
	if err != nil {
		return err
	}
	start := time.Now()
	// That it is limited is what is expected.
	limited := network.WithAllowLimitedConn(ctx, "hole-punch")
	err = p.host.Connect(limited, peer.AddrInfo{ID: target, Addrs: []ma.Multiaddr{circuit}})
	if err != nil {
		return err
	}
	printLine(result{"event": "relayed", "peer_id": id, "ms": millis(time.Since(start))})
	conns := p.host.Network().ConnsToPeer(target)
	if len(conns) == 0 {
		return errors.New("no connection")
	}
	relayed := conns[0]
	start = time.Now()
	missed := 0
	for {
		select {
		case conn := <-p.direct:
			found := p.found(conn)
			found["ms"] = millis(time.Since(start))
			found["attempts"] = missed + 1
			if found["ping_ms"], err = pingOn(ctx, conn); err != nil {
				return fmt.Errorf("the direct connection does not work: %w", err)
			}
			found["relayed_ping_ms"] = pingOrNil(ctx, relayed)
			found["connections"] = p.directWith(target)
			printLine(found)
			return nil
		case reason := <-p.missed:
			printLine(result{"event": "missed", "error": reason})
			if missed++; missed < holePunchAttempts {
				continue
			}
			printLine(result{
				"event":           "failed",
				"peer_id":         id,
				"error":           reason,
				"relayed_ping_ms": pingOrNil(ctx, relayed),
			})
			return errRelayed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// errRelayed says that there is no direct connection, and still the relayed one.
var errRelayed = errors.New("only relayed")

func (p *puncher) connected(_ network.Network, conn network.Conn) {
	if conn.RemotePeer() != p.relay.ID && !isRelayed(conn) {
		p.direct <- conn
	}
}

// Trace is called by the hole punching service for everything that happens.
func (p *puncher) Trace(event *holepunch.Event) {
	switch event := event.Evt.(type) {
	case *holepunch.EndHolePunchEvt:
		if !event.Success {
			p.missed <- event.Error
		}
	case *holepunch.ProtocolErrorEvt:
		p.missed <- event.Error
	}
}

func (p *puncher) found(conn network.Conn) result {
	return result{
		"event":   "direct",
		"peer_id": conn.RemotePeer().String(),
		"addr":    conn.RemoteMultiaddr().String(),
	}
}

func (p *puncher) directWith(id peer.ID) int {
	count := 0
	for _, conn := range p.host.Network().ConnsToPeer(id) {
		if !isRelayed(conn) {
			count++
		}
	}
	return count
}

func isRelayed(conn network.Conn) bool {
	_, err := conn.RemoteMultiaddr().ValueForProtocol(ma.P_CIRCUIT)
	return err == nil
}

func pingOrNil(ctx context.Context, conn network.Conn) any {
	took, err := pingOn(ctx, conn)
	if err != nil {
		return nil
	}
	return took
}

// pingOn pings on this very connection, which the service of go-libp2p does not.
func pingOn(ctx context.Context, conn network.Conn) (float64, error) {
	s, err := conn.NewStream(network.WithAllowLimitedConn(ctx, "ping"))
	if err != nil {
		return 0, err
	}
	defer s.Reset()
	if err := s.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return 0, err
	}
	if err := multistream.SelectProtoOrFail(ping.ID, s); err != nil {
		return 0, err
	}
	sent, received := make([]byte, ping.PingSize), make([]byte, ping.PingSize)
	if _, err := rand.Read(sent); err != nil {
		return 0, err
	}
	start := time.Now()
	if _, err := s.Write(sent); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(s, received); err != nil {
		return 0, err
	}
	if !bytes.Equal(sent, received) {
		return 0, errors.New("another pong than the ping")
	}
	return millis(time.Since(start)), nil
}

func millis(took time.Duration) float64 {
	return float64(took.Microseconds()) / 1000
}
