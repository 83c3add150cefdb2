package main

import (
	"errors"
	"fmt"
	"reflect"
	"time"
	"unsafe"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/protocol/autonatv2"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	ma "github.com/multiformats/go-multiaddr"
)

// startAutoNAT makes the host a server of AutoNAT v2, which dials back from its own host, and lets
// it be a client.
func startAutoNAT(h host.Host, opts options) (*autonatv2.AutoNAT, error) {
	dialer, err := libp2p.New(
		libp2p.Transport(libp2pquic.NewTransport),
		libp2p.ResourceManager(&network.NullResourceManager{}),
		libp2p.DisableRelay(),
		libp2p.NoListenAddrs,
	)
	if err != nil {
		return nil, err
	}
	nat, err := autonatv2.New(dialer, allowPrivateAddrs())
	if err != nil {
		return nil, err
	}
	if opts.noReset {
		h = withoutLateResets{h}
	}
	return nat, nat.Start(h)
}

// allowPrivateAddrs is the option of that name, which makes a loopback address as good as any
// other. go-libp2p exports it from v0.49 on; until then the field that it sets is looked up by
// name.
func allowPrivateAddrs() autonatv2.AutoNATOption {
	option := reflect.TypeFor[autonatv2.AutoNATOption]()
	set := reflect.MakeFunc(option, func(arguments []reflect.Value) []reflect.Value {
		field := arguments[0].Elem().FieldByName("allowPrivateAddrs")
		*(*bool)(unsafe.Pointer(field.UnsafeAddr())) = true
		return []reflect.Value{reflect.Zero(option.Out(0))}
	})
	return set.Interface().(autonatv2.AutoNATOption)
}

// autonat asks the peer whether it can reach the address that the host listens at.
func (r *remote) autonat() (result, error) {
	// Connect has waited for identify.
	served, err := r.host.Peerstore().SupportsProtocols(r.id, autonatv2.DialProtocol)
	if err != nil {
		return nil, err
	}
	if len(served) == 0 {
		return nil, fmt.Errorf("%w: no AutoNAT v2 server", errUnsupported)
	}
	var requests []autonatv2.Request
	for _, addr := range r.host.Network().ListenAddresses() {
		requests = append(requests, autonatv2.Request{Addr: addr, SendDialData: true})
	}
	found, err := r.nat.GetReachability(r.ctx, requests)
	// It learns of the peer at about the same time as we do.
	for errors.Is(err, autonatv2.ErrNoPeers) && r.ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
		found, err = r.nat.GetReachability(r.ctx, requests)
	}
	if err != nil {
		return nil, err
	}
	if found.AllAddrsRefused || found.Reachability != network.ReachabilityPublic {
		return nil, fmt.Errorf("refused: %t, reachability: %s", found.AllAddrsRefused, found.Reachability)
	}
	return result{"addr": found.Addr.String()}, nil
}

// beside is any port of the host that addr is on.
func beside(addr ma.Multiaddr) string {
	ip, _ := ma.SplitFirst(addr)
	return fmt.Sprintf("%s/udp/0/quic-v1", ip)
}

// withoutLateResets is a host whose handlers cannot reset a stream that they have closed, which
// would discard the data that was not sent yet. go-libp2p's handler of dial-backs does both.
type withoutLateResets struct{ host.Host }

func (h withoutLateResets) SetStreamHandler(id protocol.ID, handle network.StreamHandler) {
	h.Host.SetStreamHandler(id, func(s network.Stream) { handle(&closedOnce{Stream: s}) })
}

type closedOnce struct {
	network.Stream
	closed bool
}

func (s *closedOnce) Close() error {
	s.closed = true
	return s.Stream.Close()
}

func (s *closedOnce) Reset() error {
	if s.closed {
		return nil
	}
	return s.Stream.Reset()
}
